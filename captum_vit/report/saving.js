// What can be saved of a map: the picture with its title and colour bar, and the numbers.

const TITLE = 18, TEXT = 14, EDGE = 16; // pixels
const FONT = "system-ui, sans-serif";

/** Give a file to whoever reads the page. */
function save(name, type, ...content) {
  const href = URL.createObjectURL(new Blob(content, { type }));
  Object.assign(document.createElement("a"), { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}

/** A name of a file from words. */
const fileName = (words, ending) => `${words.join(" ").replace(/[^\p{L}\p{N}.]+/gu, "-").slice(0, 120)}.${ending}`;

/** Words in lines that fit a width. */
function wrapped(context, text, width) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const longer = lines.at(-1) ? `${lines.at(-1)} ${word}` : word;
    if (context.measureText(longer).width <= width || !lines.at(-1)) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines;
}

/**
 * Where all stands on a sheet with a picture, what it shows, and the bar of its colours.
 * `words`: title, where, ends and unit; without ends there is no bar.
 */
function sheet(picture, bar, { title, where, ends, unit }) {
  const context = document.createElement("canvas").getContext("2d"), { width, height } = picture;
  const texts = [];
  let y = EDGE;
  const write = (text, size, weight) => {
    context.font = `${weight} ${size}px ${FONT}`;
    for (const line of wrapped(context, text, width)) {
      y += Math.round(1.35 * size);
      texts.push({ text: line, size, weight, x: EDGE, y: y - Math.round(0.35 * size), anchor: "start" });
    }
  };
  write(title, TITLE, 600);
  write(where, TEXT, 400);
  const top = (y += 10);
  y += height + 14;
  const at = ends ? { x: EDGE, y, width, height: 12 } : null;
  if (ends) {
    y += 12 + Math.round(1.4 * TEXT);
    ends.forEach((text, i) => texts.push({
      text, size: TEXT, weight: 400, x: EDGE + (width * i) / 2, y: y - 4, anchor: ["start", "middle", "end"][i],
    }));
    write(unit, TEXT - 2, 400);
  }
  return { width: width + 2 * EDGE, height: y + EDGE, picture, top, bar, at, texts };
}

/** A sheet as one canvas. */
function drawnSheet({ width, height, picture, top, bar, at, texts }) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height }), context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(picture, EDGE, top);
  if (at) context.drawImage(bar, at.x, at.y, at.width, at.height);
  context.fillStyle = "#1d2025";
  for (const { text, size, weight, x, y, anchor } of texts) {
    context.font = `${weight} ${size}px ${FONT}`;
    context.textAlign = anchor === "middle" ? "center" : anchor;
    context.fillText(text, x, y);
  }
  return canvas;
}

/** A sheet as SVG, whose words stay words. */
function vectorSheet({ width, height, picture, top, bar, at, texts }) {
  const space = "http://www.w3.org/2000/svg", root = document.createElementNS(space, "svg");
  const add = (name, attributes, text) => {
    const element = document.createElementNS(space, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.textContent = text ?? "";
    root.append(element);
  };
  for (const [key, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) {
    root.setAttribute(key, value);
  }
  add("rect", { width, height, fill: "#fff" });
  add("image", { x: EDGE, y: top, width: picture.width, height: picture.height, href: picture.toDataURL("image/png") });
  if (at) add("image", { ...at, preserveAspectRatio: "none", href: bar.toDataURL("image/png") });
  for (const { text, size, weight, x, y, anchor } of texts) {
    add("text", {
      x, y, "font-size": size, "font-weight": weight, "font-family": FONT, "text-anchor": anchor, fill: "#1d2025",
    }, text);
  }
  return new XMLSerializer().serializeToString(root);
}

/** Values as rows of a table. */
function asCSV(values, columns) {
  const rows = Array.from({ length: values.length / columns }, (_, i) => values.subarray(i * columns, (i + 1) * columns));
  return rows.map((row) => `${[...row].join(",")}\n`).join("");
}

/** Values in numpy's format, version 1.0: a header, padded to 64 bytes, and the numbers. */
function asNpy(values, shape) {
  const header = `{'descr': '<f4', 'fortran_order': False, 'shape': (${shape.join(", ")}), }`;
  const length = Math.ceil((10 + header.length + 1) / 64) * 64 - 10, head = new Uint8Array(10 + length);
  head.set([0x93, 78, 85, 77, 80, 89, 1, 0, length & 255, length >> 8]);
  head.set(new TextEncoder().encode(`${header.padEnd(length - 1)}\n`), 10);
  return [head, values.slice().buffer];
}

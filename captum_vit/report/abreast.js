// Maps side by side under one slider. Whatever comes from outside is set as text, never as HTML.
// Rows, columns, blocks and steps count from 0 in here, from 1 in words.

const COLUMNS = 3; // of pictures in a file

/** One of the maps. */
class Abreast {
  constructor(figure, data, photo, pointed) {
    const flow = typeof data.flow === "string" ? floats(data.flow) : data.flow;
    Object.assign(this, { data, part: parts(figure), flow, step: data.blocks.length - 1 });
    this.size = data.grid[0] * data.grid[1];
    this.picture = new Picture(photo, this.part.canvas, data);
    this.lies = JSON.stringify([data.photo, data.grid, data.box, data.window]); // the same patches lie at the same place
    this.pointer = new Pointer(this.part.picture, this.part.readout, this.picture, {
      strongest: () => this.strongest(),
      pointed: (patch) => pointed(this, patch),
    });
    this.part.picture.setAttribute("aria-label", `${data.title}: arrow keys move from patch to patch`);
    this.patch = null;
  }

  values() {
    const block = this.data.blocks[this.step];
    return this.flow.subarray(block * this.size, (block + 1) * this.size);
  }

  strongest() { return strongest(this.values(), this.data.signed); }

  /** Which block stands here, in words; of a difference nothing. */
  where() {
    const { layers, blocks, accumulates } = this.data, block = blocks[this.step];
    if (!layers.length) return "";
    return `${layers[block]}, ${block + 1} of ${layers.length}${accumulates ? "" : ", by itself"}`;
  }

  show(step, { common, alone }, look) {
    this.step = step;
    const { part, data, picture } = this, values = this.values(), scale = common ? data.common : data.own[step];
    const { low, high, signed } = scale, made = paints(LOOK, signed, look);
    part.layer.textContent = this.where();
    for (const [name, value] of Object.entries({ low, middle: (low + high) / 2, high })) {
      part[name].textContent = number(value);
    }
    const told = [`${data.unit} per patch`, data.told?.[step], data.flat[step] && flatness(values), signed && data.signs];
    part.unit.textContent = told.filter(Boolean).join("; ");
    part.canvas.setAttribute("aria-label", [data.title, this.where()].filter(Boolean).join(", "));
    ramp(part.bar, made);
    this.point(this.patch);
    if (!picture.context) return;
    picture.paint(alone || !look.alpha ? null : levelled(values, scale), made, LOOK.lines);
    picture.mark(data.marks, LOOK.lines);
  }

  point(patch) {
    this.patch = patch;
    this.picture.outline(this.part.cursor, patch);
    this.part.readout.textContent = patch === null ? "" : this.told(patch);
  }

  /** The picture as it is shown, with its words. */
  sheet() {
    const { part, data, picture } = this, ends = ["low", "middle", "high"].map((name) => part[name].textContent);
    return sheet(picture.copy(null), part.bar, { title: data.title, where: this.where(), ends, unit: part.unit.textContent });
  }

  told(patch) {
    const { cols } = this.picture, values = this.values();
    const place = `Row ${Math.floor(patch / cols) + 1}, column ${(patch % cols) + 1}: `;
    return place + (this.data.layers.length ? partOf(values, patch, this.data) : `${number(values[patch])}.`);
  }
}

/** All of them, two to six. */
class SideBySide {
  constructor(part, controls) {
    Object.assign(this, { part, controls });
    this.player = new Player(part, () => this.update(), () => this.where());
    part.save.addEventListener("click", () => this.save());
  }

  /**
   * Show maps.
   * `data`: the parts, how many steps there are, whether a step is a share of the depth, and how scales are told.
   * `photos`: of each part its photograph.
   */
  async put(figures, data, photos) {
    this.data = data;
    this.abreast = figures.map((figure, i) =>
      new Abreast(figure, data.parts[i], photos[i], (from, patch) => this.point(from, patch)));
    this.part.blocks.hidden = data.steps < 2;
    this.part.block.max = data.steps;
    this.player.to(data.steps - 1);
    await Promise.all(this.abreast.map((each) => each.picture.prepare()));
    this.update();
  }

  /** The step in words: of maps with as many blocks the block, else how much of the depth lies before. */
  where() {
    const { steps, shares } = this.data, step = this.player.at;
    return shares ? `after ${Math.round((100 * (step + 1)) / steps)} % of the depth` : `block ${step + 1} of ${steps}`;
  }

  update() {
    const { part, controls, data } = this, look = controls.look(), step = this.player.at;
    part.layer.textContent = this.where();
    part.scales.textContent = data.scales[controls.common ? "common" : "own"];
    for (const each of this.abreast) each.show(step, controls, look);
    controls.tell(this.abreast.some((each) => each.data.signed));
  }

  /** A patch that is pointed at in one picture, in all where it lies at the same place. */
  point(from, patch) {
    const alike = this.abreast.filter((each) => each.lies === from.lies);
    for (const each of alike) each.point(patch);
    if (patch !== null) say(alike.map((each) => `${each.data.title.split(",")[0]}. ${each.told(patch)}`).join(" "));
  }

  /** All pictures in one file. */
  save() {
    const drawn = this.abreast.map((each) => drawnSheet(each.sheet())), columns = Math.min(drawn.length, COLUMNS);
    const width = Math.max(...drawn.map((each) => each.width)), height = Math.max(...drawn.map((each) => each.height));
    const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
    Object.assign(canvas, { width: width * columns, height: height * Math.ceil(drawn.length / columns) });
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    drawn.forEach((each, i) => context.drawImage(each, width * (i % columns), height * Math.floor(i / columns)));
    canvas.toBlob((blob) => save(fileName(["side by side", this.where()], "png"), "image/png", blob));
  }
}

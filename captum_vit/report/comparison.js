// Maps side by side under one slider. Whatever comes from outside is set as text, never as HTML.
// Rows, columns, blocks and steps count from 0 in here, from 1 in words.

const parts = (root) => Object.fromEntries([...root.querySelectorAll("[data-part]")].map((e) => [e.dataset.part, e]));

class Abreast {
  constructor(figure, data, photo, pointed) {
    Object.assign(this, { data, part: parts(figure), flow: floats(data.flow), step: data.blocks.length - 1 });
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

  strongest() {
    const sizes = this.data.signed ? this.values().map(Math.abs) : this.values();
    return sizes.indexOf(greatest(sizes));
  }

  /** Which block stands here, in words; of a difference nothing. */
  where() {
    const { layers, blocks, accumulates } = this.data, block = blocks[this.step];
    if (!layers.length) return "";
    return `${layers[block]}, ${block + 1} of ${layers.length}${accumulates ? "" : ", by itself"}`;
  }

  show(step, common, look, alone) {
    this.step = step;
    const { part, data, picture } = this, values = this.values(), scale = common ? data.common : data.own[step];
    const { low, high, signed } = scale, made = paints(LOOK, signed, look);
    part.layer.textContent = this.where();
    for (const [name, value] of Object.entries({ low, middle: (low + high) / 2, high })) {
      part[name].textContent = number(value);
    }
    const told = [`${data.unit} per patch`, data.flat[step] && "nearly flat",
      signed && data.signs];
    part.unit.textContent = told.filter(Boolean).join("; ");
    part.canvas.setAttribute("aria-label", [data.title, this.where()].filter(Boolean).join(", "));
    ramp(part.bar, made);
    this.point(this.patch);
    if (picture.context) picture.paint(alone || !look.alpha ? null : levelled(values, scale), made, LOOK.lines);
  }

  point(patch) {
    this.patch = patch;
    this.picture.outline(this.part.cursor, patch);
    this.part.readout.textContent = patch === null ? "" : this.told(patch);
  }

  told(patch) {
    const { cols } = this.picture, values = this.values();
    const place = `Row ${Math.floor(patch / cols) + 1}, column ${(patch % cols) + 1}: `;
    return place + (this.data.layers.length ? partOf(values, patch, this.data) : `${number(values[patch])}.`);
  }
}

class Comparison {
  constructor(section) {
    this.part = {};
    for (const element of section.querySelectorAll("[data-part]")) {
      if (!element.closest(".part")) this.part[element.dataset.part] = element;
    }
    this.data = JSON.parse(section.querySelector('script[type="application/json"]').textContent);
    const photos = section.querySelectorAll(".photos img"), figures = [...section.querySelectorAll(".part")];
    this.abreast = figures.map((figure, i) => {
      const data = this.data.parts[i];
      return new Abreast(figure, data, photos[data.photo], (from, patch) => this.point(from, patch));
    });
    this.part.blocks.hidden = this.data.steps < 2;
    this.controls = new Controls(this.part, () => this.update());
    this.player = new Player(this.part, () => this.update(), () => this.where());
    this.part.download.hidden = true;
    this.player.to(this.data.steps - 1);
  }

  /** The step in words: of maps with as many blocks the block, else how much of the depth lies before. */
  where() {
    const { steps, shares } = this.data, step = this.player?.at ?? steps - 1;
    return shares ? `after ${Math.round((100 * (step + 1)) / steps)} % of the depth` : `block ${step + 1} of ${steps}`;
  }

  update() {
    const { part, controls, data } = this, look = controls.look(), common = part.common.checked;
    part.layer.textContent = this.where();
    part.scales.textContent = data.scales[common ? "common" : "own"];
    const step = this.player?.at ?? data.steps - 1;
    for (const each of this.abreast) each.show(step, common, look, part.alone.checked);
    controls.tell(this.abreast.some((each) => each.data.signed));
  }

  /** A patch that is pointed at in one picture, in all where it lies at the same place. */
  point(from, patch) {
    const alike = this.abreast.filter((each) => each.lies === from.lies);
    for (const each of alike) each.point(patch);
    if (patch !== null) say(alike.map((each) => `${each.data.title.split(",")[0]}. ${each.told(patch)}`).join(" "));
  }

  async prepare() {
    await Promise.all(this.abreast.map((each) => each.picture.prepare()));
    this.update();
  }
}

document.documentElement.classList.add("script");
new Comparison(document.querySelector(".comparison")).prepare();

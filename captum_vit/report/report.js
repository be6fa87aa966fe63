// A Viewer for each explanation on the page. Whatever comes from outside is set as text, never as HTML.
// Rows, columns and blocks count from 0 in here, from 1 in words.

class Viewer {
  constructor(section) {
    this.data = JSON.parse(section.querySelector('script[type="application/json"]').textContent);
    this.part = {};
    for (const element of section.querySelectorAll("[data-part]")) this.part[element.dataset.part] = element;
    const { part, data } = this;
    [this.rows, this.cols] = data.grid;
    this.size = this.rows * this.cols;
    this.picture = new Picture(part.photo, part.canvas, data);
    this.titles = new Map(data.attributions.map((a) => [a.method, a.title]));
    this.methods = [...this.titles.keys()];
    this.attribution = data.attributions[0];
    this.block = this.attribution.layers.length - 1;
    this.asked = null; // the patch whose attention is shown
    this.attention = {}; // decoded when first shown
    this.listen();
    this.choose(0, this.attribution.method);
  }

  listen() {
    const { part, data } = this;
    const on = (name, event, answer) => part[name].addEventListener(event, answer);
    const chosen = (target, method) => {
      this.choose(target, method);
      say(`${this.caption()}, ${this.where()}`);
    };
    const methods = [...this.titles.values()];
    this.targetTabs = new Tabs(part.targets, part.panel, data.targets, (i) => chosen(i, this.attribution.method));
    this.methodTabs = new Tabs(part.methods, part.panel, methods, (i) => chosen(this.target, this.methods[i]));
    part["targets-row"].hidden = !data.targets.length;
    part.attention.hidden = !Object.keys(data.attention).length;
    this.controls = new Controls(part, () => this.update());
    this.player = new Player(part, (block) => { this.block = block; this.update(); }, () => this.where());
    this.pointer = new Pointer(part.picture, part.readout, this.picture, {
      strongest: () => this.strongest(),
      pointed: (patch) => this.point(patch),
      asked: (patch) => { if (part.between.checked) this.ask(patch); },
    });
    on("between", "change", () => this.ask(this.asked ?? this.pointer.pinned ?? this.strongest()));
    on("download", "click", () => this.download());
  }

  /** The attribution of a method for a target, by its position, or the one that it gives for all. */
  find(target, method) {
    const found = this.data.attributions.filter((a) => a.method === method);
    return found.find((a) => a.target === target) ?? found.find((a) => a.target === null);
  }

  choose(target, method) {
    const { part } = this, there = this.methods.map((name) => this.find(target, name));
    const atEnd = this.block === this.attribution.layers.length - 1;
    this.target = target;
    this.attribution = this.find(target, method) ?? there.find(Boolean) ?? this.data.attributions[0];
    this.flow = floats(this.attribution.flow);
    this.targetTabs.mark(target);
    this.methodTabs.mark(this.methods.indexOf(this.attribution.method));
    this.methodTabs.tabs.forEach((tab, i) => { tab.hidden = !there[i]; });
    const tabs = [this.targetTabs, this.methodTabs].map(({ tabs, chosen }) => tabs[chosen]?.id ?? "");
    part.panel.setAttribute("aria-labelledby", tabs.join(" ").trim());
    const { length } = this.attribution.layers;
    part.block.max = length;
    part.blocks.hidden = length < 2;
    this.player.to(atEnd ? length - 1 : Math.min(this.block, length - 1));
  }

  slice(block) {
    return this.flow.subarray(block * this.size, (block + 1) * this.size);
  }

  /** What is shown: values on the patches, the scale of their colours, and their levels 0..1 in these. */
  shown() {
    if (this.part.between.checked) return this.attended();
    const { own, common } = this.attribution, values = this.slice(this.block);
    const scale = this.part.common.checked ? common : own[this.block];
    return { values, ...scale, levels: levelled(values, scale) };
  }

  /** The same for what the asked patch looks at; null where that was not kept. */
  attended() {
    const layer = this.attribution.layers[this.block], kept = this.data.attention[layer];
    if (!kept) return null;
    const { tops, parts } = (this.attention[layer] ??= { tops: floats(kept.tops), parts: bytes(kept.parts) });
    const high = tops[this.asked], row = parts.subarray(this.asked * this.size, (this.asked + 1) * this.size);
    const levels = Float32Array.from(row, (part) => part / 255);
    return { values: levels.map((level) => level * high), low: 0, high, signed: false, levels };
  }

  where() {
    const { layers } = this.attribution;
    return `${layers[this.block]}, ${this.block + 1} of ${layers.length}`;
  }

  place(patch) {
    return `row ${Math.floor(patch / this.cols) + 1}, column ${(patch % this.cols) + 1}`;
  }

  title() {
    const { title, target } = this.attribution;
    if (this.part.between.checked) return `Attention of the patch in ${this.place(this.asked)}, mean of the heads`;
    if (target !== null) return `${title}: ${this.data.targets[target]}`;
    return `${title}: ${this.data.features ? "one map, of the features" : `same for all ${this.data.kinds}`}`;
  }

  /** The title with the score, and what is to be thought of the map. */
  caption() {
    const { score, judged, flat, layers } = this.attribution, between = this.part.between.checked;
    const here = flat[this.block] && this.block < layers.length - 1 && "nearly flat in this block";
    return [this.title(), ...(between ? [] : [score, judged, here])].filter(Boolean).join(", ");
  }

  readout(shown) {
    if (this.pointer.patch === null) return "Point at a patch, or focus the picture and use the arrow keys.";
    const where = `Patch in ${this.place(this.pointer.patch)} of ${this.rows} × ${this.cols}: `;
    if (!shown) return `${where}nothing was kept in this layer.`;
    if (this.part.between.checked) return `${where}gets ${percent(shown.values[this.pointer.patch])} of the attention.`;
    return where + partOf(shown.values, this.pointer.patch, this.attribution);
  }

  update() {
    const { part } = this, shown = this.shown(), between = part.between.checked;
    const { unit, accumulates, warned } = this.attribution, look = this.controls.look();
    part.note.textContent = this.caption() + (shown ? "" : " (not kept in this layer)");
    part.verdict.textContent = this.attribution.verdict;
    part.verdict.classList.toggle("warned", warned);
    part.verdict.hidden = between || !this.attribution.verdict;
    part.layer.textContent = this.where() + (accumulates ? "" : ", by itself");
    part.readout.textContent = this.readout(shown);
    part.colours.hidden = between;
    part.scale.hidden = !shown;
    const { low, high, signed } = shown ?? {}, ends = { low, middle: (low + high) / 2, high };
    for (const [name, value] of Object.entries(ends)) {
      part[name].textContent = shown ? (between ? percent(value) : number(value)) : "";
    }
    part.unit.textContent = between
      ? "share of the patch’s attention"
      : [`${unit} per patch in the method’s units`, this.flatness(shown), look.boosted && "faint values boosted",
        signed && this.data.signs].filter(Boolean).join("; ");
    this.controls.tell(signed);
    part.canvas.setAttribute("aria-label", `Photograph under the map. ${this.caption()}, ${this.where()}`);
    this.picture.outline(part.cursor, this.pointer.patch);
    this.picture.outline(part.query, between ? this.asked : null);
    if (this.prepared) this.paint(shown, look);
  }

  /** From where to where the values of a map go that is nearly flat. */
  flatness({ values }) {
    if (!this.attribution.flat[this.block]) return "";
    const [least, most] = [values.reduce((a, b) => Math.min(a, b)), greatest(values)].map(number);
    return least === most ? `${least} everywhere` : `nearly flat, ${least} to ${most}`;
  }

  /** The picture, and the bar of its colours. */
  paint(shown, look) {
    const { alone, bar } = this.part, made = paints(LOOK, shown?.signed, look);
    ramp(bar, made);
    this.picture.paint(alone.checked || !look.alpha ? null : shown?.levels, made, LOOK.lines);
  }

  /** Once the picture is about to be seen. */
  async prepare() {
    const { photo, canvas, panel } = this.part;
    await this.picture.prepare();
    panel.style.setProperty("--ratio", canvas.width / canvas.height);
    photo.hidden = this.prepared = true;
    canvas.hidden = false;
    this.update();
  }

  download() {
    const words = [this.data.name, this.title(), this.attribution.layers[this.block]].join(" ");
    const download = `${words.replace(/[^\p{L}\p{N}.]+/gu, "-").slice(0, 120)}.png`;
    const href = this.picture.toPNG(this.part.between.checked ? this.asked : null);
    Object.assign(document.createElement("a"), { href, download }).click();
  }

  point(patch) {
    this.part.readout.textContent = this.readout(this.shown());
    this.picture.outline(this.part.cursor, patch);
    say(this.part.readout.textContent);
  }

  /** Show what a patch looks at. */
  ask(patch) {
    this.asked = patch;
    this.update();
    say(this.part.note.textContent);
  }

  strongest() {
    const values = this.slice(this.block), sizes = this.attribution.signed ? values.map(Math.abs) : values;
    return sizes.indexOf(greatest(sizes));
  }
}

document.documentElement.classList.add("script");
const viewers = new Map();
for (const section of document.querySelectorAll(".explanation")) viewers.set(section, new Viewer(section));

/** The picture of a section, once. */
function prepare(section) {
  const viewer = viewers.get(section);
  viewer.ready ??= viewer.prepare();
}
const watcher = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => prepare(entry.target)),
  { rootMargin: "50%" },
);
for (const section of viewers.keys()) watcher.observe(section);
window.addEventListener("beforeprint", () => { for (const section of viewers.keys()) prepare(section); });

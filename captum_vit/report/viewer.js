// One image with its maps. Whatever comes from outside is set as text, never as HTML.
// Rows, columns and blocks count from 0 in here, from 1 in words.

class Viewer {
  /** `controls` are those of the page, `changed` is called when another map, block or view is chosen. */
  constructor(section, controls, changed) {
    const data = JSON.parse(section.querySelector('script[type="application/json"]').textContent);
    Object.assign(this, { section, controls, changed, data, part: parts(section), attribution: data.attributions[0] });
    const { part } = this;
    [this.rows, this.cols] = data.grid;
    this.size = this.rows * this.cols;
    this.photos = (data.frames?.photos ?? [data.photo]).map((src) => Object.assign(new Image(), { src }));
    this.frame = data.frames?.first ?? 0; // of a video
    this.photo = this.photos[this.frame];
    this.picture = new Picture(this.photo, part.canvas, data);
    this.titles = new Map(data.attributions.map((a) => [a.method, a.title]));
    this.methods = [...this.titles.keys()];
    this.block = this.attribution.layers.length - 1;
    this.views = this.offered();
    this.view = this.views[0];
    this.sentence = new Sentence(this);
    this.listen();
    this.choose(0, this.attribution.method);
  }

  /** The ways to look at it for which something was kept. */
  offered() {
    const { data } = this, some = (kept) => Object.keys(kept).length > 0;
    return [
      new MapView(this), some(data.attention) && new PatchView(this), some(data.heads) && new HeadView(this),
      data.removals.length > 0 && new RemoveView(this),
      data.attributions.some(({ words }) => words?.maps.some(Boolean)) && new WordView(this),
    ].filter(Boolean);
  }

  listen() {
    const { part, data } = this;
    const chosen = (target, method) => {
      this.choose(target, method);
      this.changed();
      say(`${this.view.caption()}, ${this.where()}`);
    };
    const methods = [...this.titles.values()], views = this.views.map((view) => view.tab);
    this.targetTabs = new Tabs(part.targets, part.panel, data.targets, (i) => chosen(i, this.attribution.method));
    this.methodTabs = new Tabs(part.methods, part.panel, methods, (i) => chosen(this.target, this.methods[i]));
    this.viewTabs = new Tabs(part.views, part.panel, views, (i) => { this.look(this.views[i].name); this.changed(); });
    part["targets-row"].hidden = !data.targets.length;
    part["views-row"].hidden = views.length < 2;
    const moved = (block) => { this.block = block; this.update(); this.changed(); };
    this.player = new Player(part, moved, () => this.where());
    if (data.frames) this.listenToFrames(data.frames);
    this.lens = new Lens(part, () => this.view.holds);
    this.pointer = new Pointer(part.picture, part.readout, this.picture, {
      strongest: () => this.strongest(),
      pointed: (patch) => this.point(patch),
      asked: (patch, byKey) => { this.view.ask(patch, byKey); this.changed(); },
    });
    const frame = () => (data.frames ? [data.frames.names[this.frame]] : []);
    const picture = () => [this.view.title(), this.layer, ...frame()], map = () => [this.title(), this.layer, ...frame()];
    const cells = data.frames ? [data.frames.cells] : [], values = () => this.slice(this.block);
    const shape = () => [this.attribution.layers.length, ...cells, ...data.grid];
    for (const [name, type, ending, words, made] of [
      ["png", "image/png", "png", picture, null],
      ["svg", "image/svg+xml", "svg", picture, () => [vectorSheet(this.sheet())]],
      ["csv", "text/csv", "csv", map, () => [asCSV(values(), this.cols)]],
      ["npy", "application/octet-stream", "npy", map, () => asNpy(values(), data.grid)],
      ["flow", "application/octet-stream", "npy", () => [this.title()], () => asNpy(this.flow, shape())],
    ]) {
      const named = () => fileName([data.name, ...words()], ending);
      part[`save-${name}`].addEventListener("click", () => (made
        ? save(named(), type, ...made())
        : drawnSheet(this.sheet()).toBlob((blob) => save(named(), type, blob))));
    }
    part.copy?.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(part.call.textContent);
      } catch { // not allowed, or no clipboard at all
        getSelection().selectAllChildren(part.call);
      }
      say("Copied, or selected where copying is not allowed");
    });
  }

  /** A second slider, of the frames of a video. */
  listenToFrames({ kind, names }) {
    const { part } = this, played = { play: part["film-play"], block: part["film-slider"] };
    part.film.hidden = false;
    part["film-slider"].max = names.length;
    this.player.words = part.play.textContent = "Play blocks";
    this.film = new Player(played, (frame) => this.turn(frame), () => this.whichFrame(), `Play ${kind}s`);
    this.film.put(this.frame);
    nameSaving(part, kind);
    part["save-frames"].addEventListener("click", async () => {
      const name = fileName([this.data.name, this.title(), this.layer, `all ${kind}s`], "png");
      drawnSheet(await sheetOfFrames(this)).toBlob((blob) => save(name, "image/png", blob));
    });
  }

  whichFrame() { return `${this.data.frames.names[this.frame]}, ${this.frame + 1} of ${this.photos.length}`; }

  /** Another frame. */
  async turn(frame) {
    this.frame = frame;
    this.photo = this.photos[frame];
    if (!(await this.picture.turn(this.photo))) return;
    this.update();
    this.changed();
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
    this.block = atEnd ? length - 1 : Math.min(this.block, length - 1);
    this.look(this.view.name);
  }

  /** Another way to look at it, by name; the map where it is not offered. */
  look(name) {
    this.view = this.views.find((view) => view.name === name) ?? this.views[0];
    this.viewTabs.mark(this.views.indexOf(this.view));
    this.view.begin();
    this.part.heads.hidden = this.view.name !== "heads";
    this.part.brush.hidden = !this.view.holds;
    this.part.frame.classList.toggle("brushing", Boolean(this.view.holds));
    this.player.put(this.block);
    this.update();
  }

  get layer() { return this.attribution.layers[this.block]; }

  slice(block) { return this.cut(this.flow, block); }

  /** The map after a block out of a flow; of a video at its frame, between the cells beside it. */
  cut(flow, block) {
    const { data: { frames }, size } = this;
    if (!frames) return flow.subarray(block * size, (block + 1) * size);
    const [low, high, share] = frames.mixes[this.frame];
    const [before, after] = [low, high].map((cell) => {
      const at = (block * frames.cells + cell) * size;
      return flow.subarray(at, at + size);
    });
    return before.map((value, i) => value * (1 - share) + after[i] * share);
  }

  /** The flow of a map; of a video at its frame. */
  flowOf({ flow, layers }) {
    const whole = floats(flow);
    return this.data.frames ? Float32Array.from(layers.flatMap((_, block) => [...this.cut(whole, block)])) : whole;
  }

  where() {
    return `${this.layer}, ${this.block + 1} of ${this.attribution.layers.length}`;
  }

  place(patch) {
    return `row ${Math.floor(patch / this.cols) + 1}, column ${(patch % this.cols) + 1}`;
  }

  /** Of the map, whatever way it is looked at. */
  title() { return this.views[0].title(); }

  readout(shown) {
    if (this.pointer.patch === null) return "Point at a patch, or focus the picture and use the arrow keys.";
    const at = this.data.frames ? `, ${this.data.frames.names[this.frame]}` : "";
    const where = `Patch in ${this.place(this.pointer.patch)} of ${this.rows} × ${this.cols}${at}: `;
    return where + (shown ? this.view.readout(this.pointer.patch, shown) : "nothing was kept in this layer.");
  }

  update() {
    const { part, view, controls } = this, shown = view.shown(), look = controls.look();
    part.note.textContent = view.caption() + (shown ? "" : " (not kept in this layer)");
    part.verdict.textContent = view.verdict();
    part.verdict.classList.toggle("warned", this.attribution.warned);
    part.verdict.hidden = !view.verdict();
    part.layer.textContent = view.where();
    if (this.data.frames) part["film-name"].textContent = this.whichFrame();
    part.readout.textContent = this.readout(shown);
    part.scale.hidden = !shown;
    const words = shown ? this.ends(shown) : ["", "", ""];
    ["low", "middle", "high"].forEach((name, i) => { part[name].textContent = words[i]; });
    part.unit.textContent = shown ? view.unit(shown, look.boosted) : "";
    controls.tell(shown?.signed, view.ranged);
    if (view.name === "heads") view.grid.mark();
    part.sure.textContent = view.sure?.() ?? "";
    this.sentence.update(look);
    const frame = this.data.frames ? `, ${this.whichFrame()}` : "";
    part.canvas.setAttribute("aria-label", `Photograph under the map. ${view.caption()}, ${this.where()}${frame}`);
    this.picture.outline(part.cursor, this.pointer.patch);
    this.picture.outline(part.query, view.query());
    if (!this.prepared) return;
    const made = paints(LOOK, shown?.signed, look);
    ramp(part.bar, made);
    this.picture.paint(controls.alone || !look.alpha ? null : shown?.levels, made, LOOK.lines);
    this.picture.cover(view.covered ?? []);
    this.picture.mark(this.attribution.marks, LOOK.lines);
  }

  /** What stands below the bar of the colours. */
  ends({ low, high }) {
    return [low, (low + high) / 2, high].map((value) => this.view.end(value));
  }

  /** Once the picture is about to be seen. */
  async prepare() {
    if (this.prepared) return;
    const { canvas, panel } = this.part;
    await this.picture.prepare();
    panel.style.setProperty("--ratio", canvas.width / canvas.height);
    this.prepared = true;
    this.section.classList.add("drawn");
    this.update();
    canvas.hidden = false;
  }

  /** Let go of the picture, until `prepare`. */
  rest() {
    this.prepared = false;
    this.section.classList.remove("drawn");
    this.picture.release();
  }

  /** The picture as it is shown, with its words. */
  sheet() {
    const { view, part } = this, shown = view.shown();
    const ends = shown && !this.controls.alone ? this.ends(shown) : null;
    return sheet(this.picture.copy(view.query()), part.bar, {
      title: `${this.data.name}. ${view.caption()}`, ends,
      where: [view.where(), ...(this.data.frames ? [this.whichFrame()] : [])].join("; "), unit: part.unit.textContent,
    });
  }

  point(patch) {
    this.part.readout.textContent = this.readout(this.view.shown());
    this.picture.outline(this.part.cursor, patch);
    say(this.part.readout.textContent);
  }

  strongest() { return strongest(this.slice(this.block), this.attribution.signed); }

  /** What is shown, as names and values for an address. */
  get state() {
    const { data, attribution, view, block } = this, last = attribution.layers.length - 1;
    return [
      ["method", attribution.method], ["target", data.targets[this.target]],
      ["block", block < last && block + 1], ["frame", data.frames && this.frame + 1],
      ["show", view !== this.views[0] && view.name],
      ["patch", view.name === "patches" && view.asked + 1], ["head", view.name === "heads" && view.head + 1],
      ["removed", view.name === "remove" && view.state], ["word", view.name === "word" && view.word + 1],
    ].filter(([, value]) => value);
  }

  /** Show what an address names, as far as it is here. */
  set state(given) {
    const whole = (name, count) => clamp(Math.trunc(Number(given.get(name)) || 0), 0, count) - 1;
    const target = this.data.targets.indexOf(given.get("target"));
    const method = this.methods.includes(given.get("method")) ? given.get("method") : this.attribution.method;
    const of = (name) => this.views.find((view) => view.name === name);
    if (whole("patch", this.size) >= 0 && of("patches")) of("patches").asked = whole("patch", this.size);
    if (whole("head", 1e4) >= 0 && of("heads")) of("heads").head = Math.min(whole("head", 1e4), of("heads").most - 1);
    if (whole("word", 1e4) >= 0 && of("word")) of("word").word = whole("word", 1e4);
    this.choose(Math.max(target, 0), method);
    if (of("remove") && given.get("show") === "remove") of("remove").state = given.get("removed");
    const last = this.attribution.layers.length - 1, block = whole("block", last + 1);
    this.block = block < 0 ? last : block;
    const frame = whole("frame", this.photos.length);
    if (frame >= 0 && frame !== this.frame) this.film.to(frame);
    this.look(given.get("show"));
  }
}

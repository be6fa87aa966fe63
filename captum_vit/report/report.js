// The page: a gallery where there are several images, one image, or some side by side; its address says what is shown.

const DRAWN = 8; // images whose pictures are kept as they were drawn
const CHOSEN = ["method", "target", "block", "show"]; // what is taken along from image to image

class Report {
  constructor() {
    this.sections = [...document.querySelectorAll(".explanation")];
    this.viewers = new Map();
    this.drawn = [];
    this.desk = document.querySelector(".desk");
    this.controls = new Controls(document.getElementById("display"), () => { this.update(); this.note(); });
    this.beside = parts(document.getElementById("abreast"));
    this.row = new SideBySide(this.beside, this.controls);
    this.beside.back.addEventListener("click", () => this.back());
    const nav = document.getElementById("gallery");
    this.gallery = nav && new Gallery(nav, (number, event) => this.open(number, event), (numbers) => this.abreast(numbers));
    if (this.gallery && !this.sections.length) for (const link of nav.querySelectorAll("li a")) this.carry(link);
    window.addEventListener("hashchange", () => this.read()); // all places differ in it, so that steps back are heard too
    this.read();
  }

  /** The viewer of a section, made when it is first needed. */
  viewer(section) {
    if (!this.viewers.has(section)) {
      const viewer = new Viewer(section, this.controls, () => this.note());
      this.viewers.set(section, viewer);
      const go = (name, to) => viewer.part[name]?.addEventListener("click", () => to());
      for (const link of section.querySelectorAll(".around a")) this.carry(link);
      go("all", () => this.go("gallery"));
      if (this.gallery) for (const way of ["previous", "next"]) go(way, () => this.step(way));
      for (const [name, what] of [["methods", "method"], ["targets", "target"]]) this.offer(viewer, name, what);
    }
    return this.viewers.get(section);
  }

  /** A link to another page takes along what is chosen here. */
  carry(link) {
    link.addEventListener("click", () => { link.hash = this.address("image-1", this.chosen); });
  }

  /** A button that shows the methods, or the targets, of an image side by side, where there are several. */
  offer(viewer, name, what) {
    const many = new Set(viewer.data.attributions.map((each) => each[what]).filter((each) => each !== null)).size;
    if (many < 2) return;
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: "side by side" });
    button.setAttribute("aria-label", `${name === "methods" ? "Methods" : "Targets"} side by side`);
    button.className = "small";
    button.addEventListener("click", () => this.abreast([this.number], what));
    viewer.part[`${name}-row`].append(button);
  }

  /** Another image; what was chosen of the one that is shown is kept as far as it is there. */
  open(number, event) {
    event?.preventDefault();
    this.go(`image-${number}`, this.chosen);
  }

  step(way) {
    const to = this.gallery.around(this.number)[way];
    if (to) this.open(to);
  }

  /** Several images, or all methods or targets of one, side by side. */
  abreast(numbers, what = "") {
    this.go("abreast", [["images", numbers.join(".")], ["of", what], ...this.chosen]);
  }

  /** From side by side: maps of one image lead to it, images to all of them. */
  back() {
    if (new Map(this.asked).get("of")) this.open(this.number);
    else this.go("gallery");
  }

  /** What is chosen of the image that is shown, or was shown last. */
  get chosen() { return this.shown?.state ?? this.left; }

  /** Show what an address names, and keep it as a step that can be gone back. */
  go(place, state = []) {
    clearTimeout(this.noting);
    const address = this.address(place, state);
    try {
      history.pushState(null, "", address);
    } catch {} // a frame without an address of its own
    this.read(address);
    if (!this.section) return this.gallery.focus(this.number);
    this.section.querySelector("h2").focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }

  address(place, state) {
    const named = [...state, ...this.controls.settings].filter(([, value]) => value !== "" && value !== undefined);
    return `#${[place, ...named.map(([name, value]) => `${name}=${encodeURIComponent(value)}`)].join("&")}`;
  }

  /** Write what is shown into the address, once it rests: browsers count how often that is done. */
  note() {
    if (this.reading || !this.place) return;
    clearTimeout(this.noting);
    this.noting = setTimeout(() => this.write(), REST);
  }

  write() {
    const state = this.place === "abreast" ? this.asked : this.shown?.state ?? [];
    try {
      history.replaceState(null, "", this.address(this.place, state));
    } catch {} // as above
  }

  read(address = location.hash) {
    if (this.place && address === "#main") return; // the link that skips to the pictures, of what is shown
    const [place, ...rest] = address.replace(/^#/, "").split("&");
    const given = new Map(rest.map((pair) => {
      const [name, ...value] = pair.split("=");
      try {
        return [name, decodeURIComponent(value.join("="))];
      } catch {
        return [name, ""];
      }
    }));
    this.reading = true;
    if (rest.length) this.controls.set(given);
    this.left = this.chosen ?? [...given].filter(([name]) => CHOSEN.includes(name));
    this.shown?.player.leave();
    this.shown?.film?.leave();
    this.row.player.leave();
    this.shown = null;
    const number = Number(/^image-(\d+)$/.exec(place)?.[1]);
    const asked = (given.get("images") ?? "").split(".").map(Number).filter((n) => this.sections[n - 1]).slice(0, MOST);
    if (place === "abreast" && asked.length) this.showAbreast(asked, given);
    else if (this.sections[number - 1]) this.showImage(number, given);
    else if (this.gallery) this.showGallery();
    else this.showImage(1, given);
    this.reading = false;
  }

  /** One section alone, or none. */
  only(section) {
    this.section = section;
    const all = [...this.sections, document.getElementById("abreast")];
    for (const each of all) each.classList.toggle("away", each !== section);
    this.gallery?.list.parentElement.classList.toggle("away", section !== null);
    this.desk.classList.toggle("away", section === null);
  }

  showGallery() {
    this.place = "gallery";
    this.only(null);
  }

  showImage(number, given) {
    this.place = `image-${number}`;
    this.number = number;
    this.only(this.sections[number - 1]);
    this.shown = this.viewer(this.section);
    this.shown.state = given;
    this.shown.prepare();
    this.drawn = [this.shown, ...this.drawn.filter((each) => each !== this.shown)];
    for (const viewer of this.drawn.splice(DRAWN)) viewer.rest();
    const around = this.gallery?.around(number) ?? {};
    for (const way of ["previous", "next"]) if (this.gallery) this.shown.part[way].disabled = !around[way];
  }

  showAbreast(numbers, given) {
    const viewers = numbers.map((number) => this.viewer(this.sections[number - 1]));
    const found = pairs(viewers, given).slice(0, MOST), data = side(found);
    this.place = "abreast";
    this.number = numbers[0];
    this.asked = [...given].filter(([name]) => ["images", "of", "method", "target"].includes(name));
    this.only(document.getElementById("abreast"));
    const { parts: place, template } = this.beside;
    const figures = data.parts.map((each, i) => figure(template.content, i + 1, each));
    place.replaceChildren(...figures);
    place.classList.toggle("three", found.length > 4);
    this.row.put(figures, data, found.map(([viewer]) => viewer.photo));
  }

  update() {
    if (this.place === "abreast") this.row.update();
    this.shown?.update();
  }
}

/** Which maps stand side by side: of one image all methods or targets, of several images one map each. */
function pairs(viewers, given) {
  const [viewer] = viewers, { attributions } = viewer.data;
  const asked = ({ data }) => Math.max(data.targets.indexOf(given.get("target")), 0);
  if (given.get("of") === "method") {
    const target = asked(viewer);
    return viewer.methods.map((method) => [viewer, viewer.find(target, method)]).filter(([, found]) => found);
  }
  const method = (of) => (of.methods.includes(given.get("method")) ? given.get("method") : of.methods[0]);
  if (given.get("of") === "target") {
    const own = attributions.filter((each) => each.method === method(viewer) && each.target !== null);
    return (own.length ? own : attributions.filter((each) => each.target !== null)).map((each) => [viewer, each]);
  }
  return viewers.map((each) => [each, each.find(asked(each), method(each)) ?? each.data.attributions[0]]);
}

/** What `SideBySide` needs of maps, as `captum_vit.report.comparison` has it. */
function side(found) {
  const steps = Math.max(...found.map(([, { layers }]) => layers.length));
  const kind = ({ method, unit }) => JSON.stringify([method, unit]), flows = found.map(([viewer, each]) => viewer.flowOf(each));
  const shared = new Map();
  for (const [, each] of found) {
    const alike = found.flatMap(([, other], i) => (kind(other) === kind(each) ? [[other, flows[i]]] : []));
    shared.set(kind(each), scaleOf(alike.map(([, flow]) => flow), alike.some(([other]) => other.signed)));
  }
  const made = found.map(([viewer, each], i) => {
    const { data } = viewer, { length } = each.layers;
    const blocks = Array.from({ length: steps }, (_, step) => Math.ceil(((step + 1) * length) / steps) - 1);
    const target = each.target === null ? "" : data.targets[each.target];
    const image = viewer.section.querySelector("h2").textContent;
    const frame = data.frames?.names[viewer.frame];
    const lines = [image, frame, [target, each.score].filter(Boolean).join(", "), each.judged].filter(Boolean);
    return {
      ...each, flow: flows[i], ...Object.fromEntries(["grid", "original", "box", "window", "signs"].map((name) => [name, data[name]])),
      photo: viewer.section.id, blocks, own: blocks.map((block) => each.own[block]), common: shared.get(kind(each)),
      flat: blocks.map((block) => each.flat[block]), heading: each.title, lines, title: [each.title, ...lines].join(", "),
    };
  });
  const own = LOOK.scale === "given" ? "One colour scale for all, as given." : "Each picture has its own colour scale.";
  const common = shared.size === 1 ? "One colour scale for all." : "One colour scale for all pictures of a method.";
  return { parts: made, steps, shares: made.some(({ layers }) => layers.length !== steps), scales: { own, common } };
}

/** A figure for a map. */
function figure(template, number, { heading, lines }) {
  const made = template.firstElementChild.cloneNode(true), { readout } = parts(made);
  made.querySelector("img").remove();
  made.querySelector("strong").textContent = heading;
  for (const line of lines) {
    made.querySelector("figcaption").append(Object.assign(document.createElement("span"), { textContent: line }));
  }
  made.querySelector("figcaption").id = `beside-${number}`;
  made.setAttribute("aria-labelledby", `beside-${number}`);
  readout.id = `beside-readout-${number}`;
  return made;
}

document.documentElement.classList.add("script");
new Report();

// How maps are painted: at first as the page was asked to, then by the one panel of controls for all.

const LOOK = JSON.parse(document.getElementById("colours").textContent);
for (const [kind, tables] of Object.entries(LOOK.tables)) LOOK.tables[kind] = tables.map(bytes);

const parts = (root) => Object.fromEntries([...root.querySelectorAll("[data-part]")].map((e) => [e.dataset.part, e]));

class Controls {
  static names = ["opacity", "fades", "alone", "own", "common", "boost", "threshold", "contour"];

  constructor(panel, changed) {
    const part = (this.part = parts(panel));
    for (const name of ["threshold", "contour"]) part[name].value = 100 * LOOK[name];
    part.opacity.value = 100 * LOOK.alpha;
    part.fades.checked = LOOK.fade;
    part.boost.checked = LOOK.boost_faint;
    part[LOOK.scale === "common" ? "common" : "own"].checked = true;
    if (LOOK.scale === "given") part["own-label"].textContent = "Given range";
    this.first = this.all();
    for (const name of Controls.names) part[name].addEventListener("input", changed);
  }

  /** What each control is set to, as text. */
  all() {
    return Object.fromEntries(Controls.names.map((name) => {
      const { type, checked, value } = this.part[name];
      return [name, type === "range" ? value : String(Number(checked))];
    }));
  }

  /** What is set to something else than at first. */
  get settings() {
    return Object.entries(this.all()).filter(([name, value]) => value !== this.first[name]);
  }

  /** Set what is given, and all else as at first. */
  set(given) {
    for (const [name, first] of Object.entries(this.first)) {
      const control = this.part[name], value = given.get(name) ?? first;
      if (control.type === "range") control.value = value;
      else control.checked = value === "1";
    }
  }

  get common() { return this.part.common.checked; }
  get alone() { return this.part.alone.checked; }

  /** How maps are painted now. */
  look() {
    const { part } = this, share = (name) => part[name].value / 100;
    return {
      alpha: share("opacity"), fades: part.fades.checked, boosted: part.boost.checked,
      threshold: share("threshold"), contour: share("contour") || null,
    };
  }

  /** Write beside the controls what they are set to; `ranged` says whether a map's range can be chosen. */
  tell(signed, ranged = true) {
    const { part } = this, set = (name, none) => (part[name].value === "0" && none) || `${part[name].value} %`;
    part.percent.textContent = set("opacity");
    part.above.textContent = set("threshold", "none");
    part.around.textContent = set("contour", "none");
    const own = signed ? "of each block, 0 in the middle" : "of each block, from its least to its greatest value";
    part.hint.textContent = LOOK.scale === "given" ? "from one value to another, as was asked for" : own;
    part.colours.hidden = !ranged;
  }
}

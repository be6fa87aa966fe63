// How maps are painted: at first as the page was asked to, then by the controls of a section.

const LOOK = JSON.parse(document.getElementById("colours").textContent);
for (const [kind, tables] of Object.entries(LOOK.tables)) LOOK.tables[kind] = tables.map(bytes);

class Controls {
  constructor(part, changed) {
    this.part = part;
    for (const name of ["threshold", "contour"]) part[name].value = 100 * LOOK[name];
    part.opacity.value = 100 * LOOK.alpha;
    part.fades.checked = LOOK.fade;
    part.boost.checked = LOOK.boost_faint;
    part[LOOK.scale === "common" ? "common" : "own"].checked = true;
    if (LOOK.scale === "given") part["own-label"].textContent = "Given range";
    for (const name of ["opacity", "fades", "alone", "colours", "boost", "threshold", "contour"]) {
      part[name].addEventListener("input", changed);
    }
  }

  /** How maps are painted now. */
  look() {
    const { part } = this, share = (name) => part[name].value / 100;
    return {
      alpha: share("opacity"), fades: part.fades.checked, boosted: part.boost.checked,
      threshold: share("threshold"), contour: share("contour") || null,
    };
  }

  /** Write beside the controls what they are set to. */
  tell(signed) {
    const { part } = this, set = (name, none) => (part[name].value === "0" && none) || `${part[name].value} %`;
    part.percent.textContent = set("opacity");
    part.above.textContent = set("threshold", "none");
    part.around.textContent = set("contour", "none");
    const own = signed ? "of each block, 0 in the middle" : "of each block, from its least to its greatest value";
    part.hint.textContent = LOOK.scale === "given" ? "from one value to another, as was asked for" : own;
  }
}

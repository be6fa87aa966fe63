// The score without patches that a brush takes away, as `captum_vit.removals.Removals` has it.

class Removals {
  constructor(data) {
    Object.assign(this, data);
    this.places = new Map(data.removed.map((word, i) => [word, i]));
    this.regionOf = Array.from({ length: data.grid[0] * data.grid[1] }, (_, patch) => {
      const at = [Math.floor(patch / data.grid[1]), patch % data.grid[1]];
      const [down, across] = at.map((place, k) => Math.floor((place * data.regions[k]) / data.grid[k]));
      return down * data.regions[1] + across;
    });
    this.sizes = new Float64Array(data.coefficients.length);
    for (const region of this.regionOf) this.sizes[region]++;
    this.taken = data.removed.map((word) => this.shares(this.unpacked(word)));
  }

  /** Patches, as booleans, in hexadecimal digits of four patches each. */
  packed(patches) {
    const digits = Array.from({ length: Math.ceil(patches.length / 4) }, (_, i) =>
      [0, 1, 2, 3].reduce((sum, k) => sum + (patches[4 * i + k] ? 8 >> k : 0), 0));
    return digits.map((digit) => digit.toString(16)).join("");
  }

  unpacked(word) {
    return this.regionOf.map((_, patch) => Boolean((Number.parseInt(word[patch >> 2], 16) || 0) & (8 >> (patch & 3))));
  }

  /** What share of each region is taken away. */
  shares(patches) {
    const found = new Float64Array(this.sizes.length);
    patches.forEach((taken, patch) => { found[this.regionOf[patch]] += Number(taken); });
    return found.map((count, region) => count / this.sizes[region]);
  }

  /** The score, from where to where it lies in nine of ten cases, and whether it was measured. */
  without(patches) {
    const place = this.places.get(this.packed(patches)), measured = place !== undefined;
    const value = measured ? this.values[place] : this.estimated(this.shares(patches));
    const spread = measured ? 0 : this.spread;
    return { score: this.score(value), low: this.score(value - spread), high: this.score(value + spread), measured };
  }

  estimated(shares) {
    const straight = shares.reduce((sum, share, region) => sum + this.coefficients[region] * share, 0);
    const bent = this.taken.reduce((sum, other, i) => {
      const apart = shares.reduce((all, share, region) => all + (share - other[region]) ** 2, 0);
      return sum + this.weights[i] * Math.exp(-apart / (2 * this.reach ** 2));
    }, 0);
    return this.values[0] + straight + bent;
  }

  score(value) { return this.odds ? 1 / (1 + Math.exp(-value)) : value; }
  told(score) { return this.odds ? percent(score) : `${this.unit} ${number(score)}`; }
}

/** The map, from under which patches are taken away. */
class RemoveView extends MapView {
  constructor(viewer) {
    super(viewer);
    Object.assign(this, { name: "remove", tab: "Remove patches", holds: true, known: [] });
    this.removed = Array(viewer.size).fill(false);
    const { part } = viewer, show = () => { part.breadth.textContent = `${part.brushed.value} × ${part.brushed.value}`; };
    part.brushed.addEventListener("input", show);
    show();
    part.clear.addEventListener("click", () => this.put([]));
    part.strongest.addEventListener("click", () => this.put(this.strongest()));
    part.picture.addEventListener("pointerdown", (event) => this.down(event));
    part.picture.addEventListener("pointermove", (event) => {
      if (this.stroke) this.paint(viewer.pointer.patchAt(event));
    });
    for (const name of ["pointerup", "pointercancel"]) window.addEventListener(name, () => this.up());
  }

  get removals() { return (this.known[this.viewer.target] ??= new Removals(this.viewer.data.removals[this.viewer.target])); }
  get covered() { return this.removed.flatMap((taken, patch) => (taken ? [patch] : [])); }

  down(event) {
    const patch = this.viewer.pointer.patchAt(event);
    if (this.viewer.view !== this || event.button || !event.isPrimary || patch === null) return;
    this.adding = !this.removed[patch];
    this.stroke = true;
    this.paint(patch);
  }

  /** A stroke ends wherever it is let go. */
  up() {
    if (!this.stroke) return;
    this.stroke = false;
    this.viewer.changed();
    say(this.caption());
  }

  /** What lies under the brush around a patch. */
  paint(patch) {
    if (patch === null) return;
    const { cols, rows, part } = this.viewer, reach = (Number(part.brushed.value) - 1) / 2;
    const [row, column] = [Math.floor(patch / cols), patch % cols];
    for (let r = Math.max(row - reach, 0); r <= Math.min(row + reach, rows - 1); r++) {
      for (let c = Math.max(column - reach, 0); c <= Math.min(column + reach, cols - 1); c++) {
        this.removed[r * cols + c] = this.adding;
      }
    }
    this.viewer.update();
  }

  /** A key is a stroke of its own; a click has been one. */
  ask(patch, byKey) {
    if (!byKey) return;
    this.adding = !this.removed[patch];
    this.paint(patch);
    say(this.caption());
  }

  put(patches) {
    this.removed.fill(false);
    for (const patch of patches) this.removed[patch] = true;
    this.viewer.update();
    this.viewer.changed();
    say(this.caption());
  }

  /** The tenth of the patches with the greatest values, as many as verdicts leave out. */
  strongest() {
    const values = [...this.viewer.slice(this.viewer.block).entries()].sort((a, b) => b[1] - a[1]);
    return values.slice(0, Math.max(1, Math.floor(values.length / 10))).map(([patch]) => patch);
  }

  caption() {
    const { data, target, size } = this.viewer, count = this.covered.length, { removals } = this;
    const of = data.targets[target] ?? "The model’s value", whole = removals.told(removals.score(removals.values[0]));
    if (!count) return `${of}: ${whole}. Draw over the picture to take patches away.`;
    return `${of}: ${removals.told(removals.without(this.removed).score)} without ${count} of ${size} patches, ${whole} with all`;
  }

  /** How sure the score is. */
  sure() {
    const { removals } = this, { values, painted, odds, error } = removals;
    const how = painted ? "painted over in the picture’s mean colour" : "left out of the model";
    const { low, high, measured } = removals.without(this.removed), half = odds ? percent(error) : number(error);
    const range = `Estimated: ${removals.told(low)} to ${removals.told(high)} in nine of ten cases. `;
    return `${measured ? "Measured. " : range}${values.length} sets of patches were ${how} and measured; a score without others is `
      + `estimated from these, and was off by less than ${half} for half of the strokes of a brush, by more where patches lie scattered.`;
  }

  verdict() { return ""; }
  get state() { return this.covered.length ? this.removals.packed(this.removed) : ""; }
  set state(word) {
    const { size } = this.viewer, fits = word?.length === Math.ceil(size / 4) && /^[0-9a-f]+$/.test(word);
    this.removed = fits ? this.removals.unpacked(word) : Array(size).fill(false);
  }
}

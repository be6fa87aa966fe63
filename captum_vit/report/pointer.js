/** The patch that is pointed at, by mouse, finger or arrow keys; one that was clicked, or reached by a key, stays. */
class Pointer {
  /** `strongest` tells where keys begin, `pointed` is called with a patch or null, `asked` with one that was chosen, and whether by a key. */
  constructor(element, readout, picture, { strongest, pointed, asked = () => {} }) {
    Object.assign(this, { element, picture, strongest, pointed, asked, patch: null, pinned: null });
    for (const [name, value] of Object.entries({
      tabindex: 0, role: "application", "aria-describedby": readout.id,
      "aria-label": "Picture: arrow keys move from patch to patch",
    })) element.setAttribute(name, value);
    element.addEventListener("pointermove", (event) => this.point(this.patchAt(event)));
    element.addEventListener("pointerleave", () => this.point(this.pinned));
    element.addEventListener("click", (event) => this.choose(this.patchAt(event), false));
    element.addEventListener("keydown", (event) => this.key(event));
  }

  patchAt(event) {
    const area = this.element.getBoundingClientRect();
    return this.picture.patchAt((event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height);
  }

  point(patch) {
    if (patch === this.patch) return;
    this.patch = patch;
    this.pointed(patch);
  }

  pin(patch) {
    this.pinned = patch;
    this.point(patch);
  }

  choose(patch, byKey) {
    this.pin(patch);
    if (patch !== null) this.asked(patch, byKey);
  }

  key(event) {
    const { rows, cols } = this.picture;
    const at = this.pinned ?? this.strongest(), row = Math.floor(at / cols), column = at % cols;
    const asking = event.key === "Enter" || event.key === " ";
    const to = {
      ArrowUp: [row - 1, column], ArrowDown: [row + 1, column],
      ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1],
      Home: [row, 0], End: [row, cols - 1], Enter: [row, column], " ": [row, column],
    }[event.key];
    if (event.key === "Escape") this.pin(null);
    if (!to) return;
    event.preventDefault();
    const next = clamp(to[0], 0, rows - 1) * cols + clamp(to[1], 0, cols - 1);
    const patch = this.pinned === null ? at : next; // the first key shows where one is
    if (asking) this.choose(patch, true);
    else this.pin(patch);
  }
}

// A closer look at a picture: buttons, a pinch or Ctrl and the wheel, keys + - 0; what is larger than its frame is dragged.

const CLOSEST = 8;
const NUDGE = 4; // pixels that a pointer may move in a click

class Lens {
  /** `frame` cuts off what `element` shows; `held` says whether a pointer that is held down does something else. */
  constructor({ frame, picture, closer, farther }, held = () => false) {
    Object.assign(this, { frame, element: picture, held, scale: 1, x: 0, y: 0, closer, farther });
    closer.addEventListener("click", () => this.zoom(1.5));
    farther.addEventListener("click", () => this.zoom(1 / 1.5));
    frame.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 200), event);
    }, { passive: false });
    picture.addEventListener("keydown", ({ key }) => {
      if (key === "+" || key === "=") this.zoom(1.5);
      if (key === "-") this.zoom(1 / 1.5);
      if (key === "0") this.zoom(0);
    });
    frame.addEventListener("pointerdown", (event) => this.drag(event));
    frame.addEventListener("click", (event) => {
      if (this.moved && event.detail) event.stopPropagation(); // the end of a drag; a key's click has no detail
    }, true);
    this.apply();
  }

  /** By a factor, so that what lies under the event, or in the middle, stays there. */
  zoom(factor, event) {
    const area = this.frame.getBoundingClientRect(), before = this.scale;
    const at = event ? [event.clientX - area.left, event.clientY - area.top] : [area.width / 2, area.height / 2];
    this.scale = clamp(before * factor, 1, CLOSEST);
    const grown = this.scale / before;
    this.x = at[0] - (at[0] - this.x) * grown;
    this.y = at[1] - (at[1] - this.y) * grown;
    this.apply();
    say(`${Math.round(100 * this.scale)} %`);
  }

  drag(down) {
    this.moved = false;
    if (this.scale === 1 || this.held() || down.button || down.target.closest("button")) return;
    const from = [down.clientX - this.x, down.clientY - this.y];
    const move = (event) => {
      this.moved ||= Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) > NUDGE;
      if (!this.moved) return;
      [this.x, this.y] = [event.clientX - from[0], event.clientY - from[1]];
      this.apply();
    };
    const end = () => ["pointermove", "pointerup", "pointercancel"].forEach((name, i) =>
      window.removeEventListener(name, i ? end : move));
    window.addEventListener("pointermove", move);
    for (const name of ["pointerup", "pointercancel"]) window.addEventListener(name, end);
  }

  apply() {
    const { clientWidth: width, clientHeight: height } = this.frame;
    this.x = clamp(this.x, width * (1 - this.scale), 0);
    this.y = clamp(this.y, height * (1 - this.scale), 0);
    this.element.style.transform = this.scale > 1 ? `translate(${this.x}px, ${this.y}px) scale(${this.scale})` : "";
    this.frame.classList.toggle("closer", this.scale > 1);
    this.farther.disabled = this.scale === 1;
    this.closer.disabled = this.scale === CLOSEST;
  }
}

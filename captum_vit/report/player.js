// A slider of blocks that can play by itself, and what a screen reader is told.

const STEP = 600; // milliseconds that a block is shown for while playing
const REST = 400; // milliseconds without a change before a screen reader is told

let resting;
function say(text) {
  clearTimeout(resting);
  resting = setTimeout(() => { document.getElementById("spoken").textContent = text; }, REST);
}

class Player {
  /** `show` is called with the position from 0, `where` tells it in words; `words` are what the button says at rest. */
  constructor({ play, block }, show, where, words = "Play") {
    Object.assign(this, { button: play, slider: block, show, where, words });
    play.textContent = words;
    block.addEventListener("input", () => { this.stop(); this.to(Number(block.value) - 1); say(where()); });
    play.addEventListener("click", () => (this.timer ? this.stop() : this.start()));
  }

  get at() { return Number(this.slider.value) - 1; }
  get last() { return Number(this.slider.max) - 1; }

  to(position) {
    this.slider.value = position + 1;
    this.show(position);
    this.slider.setAttribute("aria-valuetext", this.where());
  }

  /** The slider alone, where what is shown is there already. */
  put(position) {
    this.slider.value = position + 1;
    this.slider.setAttribute("aria-valuetext", this.where());
  }

  start() {
    this.timer = setInterval(() => (this.at < this.last ? this.to(this.at + 1) : this.stop()), STEP);
    this.button.textContent = "Pause";
    if (this.at === this.last) this.to(0);
  }

  stop() {
    if (!this.timer) return;
    this.leave();
    say(this.where());
  }

  /** Stop without a word, as something else is shown. */
  leave() {
    clearInterval(this.timer);
    this.timer = null;
    this.button.textContent = this.words;
  }
}

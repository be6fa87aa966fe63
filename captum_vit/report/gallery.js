// The cards of all images: in an order, some of them, and which are to stand side by side.

const MOST = 6; // pictures side by side

class Gallery {
  /** `open` is called with the number of an image, `beside` with those of several. */
  constructor(nav, open, beside) {
    const part = parts(nav);
    this.list = nav.querySelector("ol");
    this.cards = [...this.list.children];
    this.part = part;
    for (const name of ["order", "predicted", "named", "doubted"]) part[name].addEventListener("input", () => this.show());
    this.picks = this.cards.map((card) => card.querySelector("[data-part=pick]")).filter(Boolean);
    for (const pick of this.picks) pick.addEventListener("change", () => this.picked());
    part.abreast.addEventListener("click", () => beside(this.chosen()));
    this.cards.forEach((card, i) => card.querySelector("a").addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || !this.picks.length) return;
      open(i + 1, event);
    }));
    this.show();
    this.picked();
  }

  /** The order and choice of cards. */
  show() {
    const { order, predicted, named, doubted, count } = this.part, wanted = named.value.trim().toLowerCase();
    const by = {
      given: () => 0, surest: (a, b) => b.score - a.score, unsure: (a, b) => a.score - b.score,
      doubtful: (a, b) => b.doubt - a.doubt, wrong: (a, b) => b.wrong - a.wrong,
    }[order.value];
    this.list.append(...this.cards.toSorted((a, b) => by(a.dataset, b.dataset)));
    for (const card of this.cards) {
      const { name, predicted: found, doubt } = card.dataset;
      card.hidden = !name.toLowerCase().includes(wanted) || (doubted.checked && doubt === "0")
        || (predicted.value !== "" && found !== predicted.value);
    }
    const shown = this.cards.filter((card) => !card.hidden).length;
    count.textContent = shown === this.cards.length ? `${shown} images` : `${shown} of ${this.cards.length} images`;
  }

  chosen() {
    return this.picks.filter((pick) => pick.checked).map((pick) => Number(pick.value));
  }

  picked() {
    const { length } = this.chosen();
    this.part.abreast.disabled = length < 2;
    this.part.abreast.textContent = length < 2 ? "Side by side: choose two to six" : `Side by side: ${length} images`;
    for (const pick of this.picks) pick.disabled = length >= MOST && !pick.checked;
  }

  /** Lead to the card of an image, or to the first one that is shown. */
  focus(number) {
    const shown = [...this.list.children].filter((card) => !card.hidden), card = this.cards[number - 1];
    (shown.includes(card) ? card : shown[0])?.querySelector("a").focus();
  }

  /** The images as they stand, by their numbers: what comes before one and after it. */
  around(number) {
    const shown = [...this.list.children].filter((card) => !card.hidden).map((card) => this.cards.indexOf(card) + 1);
    const at = shown.indexOf(number);
    return { previous: shown[at - 1], next: at < 0 ? undefined : shown[at + 1] };
  }
}

// The words of a text that was explained, in the colours of their shares, and the map without one of them.

/** The map of a method for the text without a word. */
class WordView extends MapView {
  constructor(viewer) {
    super(viewer);
    Object.assign(this, { name: "word", tab: "Without a word", word: 0 });
  }

  get words() { return this.viewer.attribution.words; }
  get kept() { return this.words?.maps[this.word] ?? ""; }

  /** It is known as it stands after the last block. */
  begin() {
    if (this.kept) return;
    this.word = Math.max(this.words?.maps.findIndex(Boolean) ?? 0, 0);
  }

  shown() {
    const { attribution, block, controls } = this.viewer;
    if (!this.kept || block < attribution.layers.length - 1) return null;
    const values = floats(this.kept), scale = controls.common ? attribution.common : scaleOf([values], attribution.signed);
    return { values, ...scale, levels: levelled(values, scale).map((level) => clamp(level, 0, 1)) };
  }

  title() { return this.words ? `${super.title()} without “${this.words.texts[this.word]}”` : super.title(); }

  caption() {
    const score = this.words?.scores[this.word];
    return [this.title(), score && `${score}, with it ${this.viewer.attribution.score}`].filter(Boolean).join(": ");
  }

  unit(shown, boosted) {
    const { attribution, data } = this.viewer;
    return [`${attribution.unit} per patch in the method’s units`, boosted && "faint values boosted",
      shown.signed && data.signs].filter(Boolean).join("; ");
  }

  verdict() { return ""; }
}

/** The sentence above the picture: a button for each word, which shows the map without it where that was kept. */
class Sentence {
  constructor(viewer) {
    Object.assign(this, { viewer, part: viewer.part, buttons: [] });
    this.view = viewer.views.find((view) => view.name === "word");
  }

  /** The words of what is shown; they are made anew where another map is chosen. */
  update(look) {
    const { part, viewer } = this, { words } = viewer.attribution;
    part.sentence.hidden = !words;
    if (!words) return;
    if (this.words !== words) this.make(words);
    const made = paints(LOOK, words.scale.signed, look), levels = levelled(words.shares, words.scale);
    const pixel = new Uint8ClampedArray(4), chosen = viewer.view === this.view ? this.view?.word : null;
    this.buttons.forEach((button, i) => {
      colour(pixel, 0, made, Math.round(255 * clamp(levels[i], 0, 1)));
      const [red, green, blue] = pixel;
      button.style.backgroundColor = `rgb(${red} ${green} ${blue})`;
      button.style.color = bright(red, green, blue) ? "#000" : "#fff";
      if (this.view) button.setAttribute("aria-pressed", String(i === chosen));
    });
    this.tell(chosen);
  }

  make(words) {
    this.words = words;
    this.buttons = words.texts.map((text, i) => {
      const kept = this.view && words.maps[i], button = document.createElement(kept ? "button" : "span");
      button.className = "word";
      if (kept) {
        button.type = "button";
        button.addEventListener("click", () => this.choose(i));
      } else button.tabIndex = 0;
      const number = Object.assign(document.createElement("span"), { className: "unseen", textContent: `, ${this.share(i)}` });
      button.append(text, number);
      button.title = this.share(i);
      for (const kind of ["pointerenter", "focus"]) button.addEventListener(kind, () => this.tell(i));
      for (const kind of ["pointerleave", "blur"]) button.addEventListener(kind, () => this.tell(null));
      return button;
    });
    this.part.words.replaceChildren(...this.buttons.flatMap((button, i) => (i ? [" ", button] : [button])));
  }

  /** What a word gives, in words. */
  share(i) {
    const { shares } = this.words, total = shares.reduce((sum, each) => sum + Math.abs(each), 0);
    const part = total ? `, ${percent(Math.abs(shares[i]) / total)} of the words’` : "";
    return `${number(shares[i])}${part}${shares[i] < 0 ? ", against" : ""}`;
  }

  tell(i) {
    const { part, words } = this, known = i ?? (this.viewer.view === this.view ? this.view?.word ?? null : null);
    if (known === null) {
      part.word.textContent = words.apart ? `Beside the words: ${words.apart}.` : "";
      return;
    }
    const score = words.scores[known];
    part.word.textContent = `“${words.texts[known]}”: ${this.share(known)}${score ? `; without it ${score}` : ""}.`;
  }

  /** The map without a word; of the word that is chosen already, with it again. */
  choose(i) {
    const { viewer, view } = this, again = viewer.view === view && view.word === i;
    view.word = i;
    if (!again) viewer.block = viewer.attribution.layers.length - 1;
    viewer.look(again ? viewer.views[0].name : view.name);
    viewer.changed();
    say(viewer.view.caption());
  }
}

/** Whether black is read better than white on a colour: which of both contrasts more by the rules of WCAG. */
function bright(...colour) {
  const linear = colour.map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  const light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  return (light + 0.05) / 0.05 > 1.05 / (light + 0.05);
}

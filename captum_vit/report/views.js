// Ways to look at an image: what is painted, and how it is told. Each asks its viewer for the map and the block.

/** The map of a method for a target. */
class MapView {
  constructor(viewer) {
    Object.assign(this, { viewer, name: "map", tab: "Map", ranged: true });
  }

  /** What is shown: values on the patches, the scale of their colours, and their levels 0..1; null if nothing is. */
  shown() {
    const { attribution, block } = this.viewer, values = this.viewer.slice(block);
    const scale = this.viewer.controls.common ? attribution.common : attribution.own[block];
    return { values, ...scale, levels: levelled(values, scale) };
  }

  title() {
    const { data, attribution } = this.viewer, { title, target } = attribution;
    if (target !== null) return `${title}: ${data.targets[target]}`;
    return `${title}: ${data.features ? "one map, of the features" : `same for all ${data.kinds}`}`;
  }

  /** The title with the score, and what is to be thought of the map. */
  caption() {
    const { attribution, block } = this.viewer, { score, judged, flat, layers } = attribution;
    const here = flat[block] && block < layers.length - 1 && "nearly flat in this block";
    return [this.title(), score, judged, here].filter(Boolean).join(", ");
  }

  readout(patch, { values }) {
    const { attribution, data } = this.viewer;
    return partOf(values, patch, attribution, data.frames ? `this ${data.frames.kind}` : "the map");
  }

  unit(shown, boosted) {
    const { attribution, block, data } = this.viewer;
    return [`${attribution.unit} per patch in the method’s units`, attribution.flat[block] && flatness(shown.values),
      boosted && "faint values boosted", shown.signed && data.signs].filter(Boolean).join("; ");
  }

  end(value) { return number(value); }
  where() { return this.viewer.where() + (this.viewer.attribution.accumulates ? "" : ", by itself"); }
  ask() {}
  begin() {}
  query() { return null; }
  verdict() { return this.viewer.attribution.verdict; }
}

/** Shares of attention, in one byte each. */
class AttentionView extends MapView {
  constructor(viewer, kept) {
    super(viewer);
    Object.assign(this, { kept, decoded: {}, ranged: false });
  }

  /** One row of what was kept in the shown block; null where nothing was. */
  weights(row, layer = this.viewer.layer) {
    if (!this.kept[layer]) return null;
    const { size } = this.viewer, { tops, parts } = this.decode(layer);
    const high = tops[row], levels = Float32Array.from(parts.subarray(row * size, (row + 1) * size), (part) => part / 255);
    return { values: levels.map((level) => level * high), low: 0, high, signed: false, levels };
  }

  rows(layer = this.viewer.layer) {
    return this.kept[layer] ? this.decode(layer).tops.length : 0;
  }

  /** What was kept of a layer, as numbers. */
  decode(layer) {
    const { tops, parts } = this.kept[layer];
    return (this.decoded[layer] ??= { tops: floats(tops), parts: bytes(parts) });
  }

  caption() { return this.title(); }
  readout(patch, { values }) { return `gets ${percent(values[patch])} of the attention.`; }
  end(value) { return percent(value); }
  where() { return this.viewer.where(); }
  verdict() { return ""; }
}

/** What one patch looks at, the mean of the heads. */
class PatchView extends AttentionView {
  constructor(viewer) {
    super(viewer, viewer.data.attention);
    Object.assign(this, { name: "patches", tab: "Patch to patch", asked: null });
  }

  begin() { this.asked ??= this.viewer.pointer.pinned ?? this.viewer.strongest(); }
  shown() { return this.weights(this.asked); }
  title() { return `Attention of the patch in ${this.viewer.place(this.asked)}, mean of the heads`; }
  unit() { return "share of the patch’s attention"; }
  query() { return this.asked; }

  ask(patch) {
    this.asked = patch;
    this.viewer.update();
    say(this.title());
  }
}

/** What a head looks at for the score. */
class HeadView extends AttentionView {
  constructor(viewer) {
    super(viewer, viewer.data.heads);
    Object.assign(this, { name: "heads", tab: "Layers × heads", head: 0 });
  }

  begin() { this.grid ??= new HeadGrid(this.viewer.part.heads, this); }

  /** The chosen head, the last one of a layer that has fewer. */
  get at() { return Math.min(this.head, (this.rows() || Infinity) - 1); }

  shown() { return this.weights(this.at); }
  title() { return `Attention of head ${this.at + 1} in ${this.viewer.layer}, for the score`; }
  unit() { return "share of the attention of what the score is read from"; }

  /** How many heads a layer has at most. */
  get most() { return Math.max(...Object.keys(this.kept).map((layer) => this.rows(layer))); }

  choose(block, head) {
    this.head = head;
    this.viewer.player.to(block);
    say(this.title());
  }
}

"use strict";
// The photograph under a map, drawn as `captum_vit.visualization.overlay` draws it.

const UNSEEN = 2; // beside 0 outside and 1 inside of a contour
const SMALLEST = 512; // pixels of the picture's longer side; smaller photographs are enlarged by a whole factor

const bytes = (text) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
const floats = (text) => new Float32Array(bytes(text).buffer);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** For each pixel along an axis: the two cells it lies between, the second's share, and whether the model saw it. */
function axis(pixels, original, [begin, end], [from, to], cells) {
  const low = new Uint16Array(pixels), high = new Uint16Array(pixels);
  const share = new Float32Array(pixels), seen = new Uint8Array(pixels);
  for (let i = 0; i < pixels; i++) {
    const at = ((i + 0.5) * original) / pixels;
    const position = clamp(((at - begin) / (end - begin)) * cells - 0.5, 0, cells - 1);
    low[i] = Math.min(Math.floor(position), Math.max(cells - 2, 0));
    high[i] = Math.min(low[i] + 1, cells - 1);
    share[i] = position - low[i];
    seen[i] = at >= from && at < to;
  }
  return { low, high, share, seen };
}

class Picture {
  /** `view` says how the model looked at the photograph: original, box, window (see View), grid. */
  constructor(photo, canvas, { original, box, window: seen, grid }) {
    Object.assign(this, { photo, canvas, original, box, seen, rows: grid[0], cols: grid[1] });
  }

  /** Read the photograph, in colour and in grey, and where its pixels lie among the patches. */
  async prepare() {
    const { canvas, original, box, seen } = this;
    if (!this.photo.complete) await this.photo.decode();
    const { photo } = this;
    const { naturalWidth: width, naturalHeight: height } = photo;
    const factor = Math.max(1, Math.ceil(SMALLEST / Math.max(width, height)));
    Object.assign(canvas, { width: width * factor, height: height * factor });
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.context.imageSmoothingEnabled = false;
    this.read();
    this.across = axis(canvas.width, original[0], [box[0], box[2]], [seen[0], seen[2]], this.cols);
    this.down = axis(canvas.height, original[1], [box[1], box[3]], [seen[1], seen[3]], this.rows);
  }

  /** Another photograph of the same size, as the next frame of a video; whether it is still wanted once it is there. */
  async turn(photo) {
    this.photo = photo;
    if (!photo.complete) await photo.decode();
    if (this.photo !== photo) return false;
    if (this.context) this.read();
    return true;
  }

  read() {
    const { canvas } = this;
    this.context.drawImage(this.photo, 0, 0, canvas.width, canvas.height);
    this.colour = this.context.getImageData(0, 0, canvas.width, canvas.height);
    this.grey = new Uint8Array(canvas.width * canvas.height);
    const rgb = this.colour.data;
    for (let i = 0; i < this.grey.length; i++) {
      this.grey[i] = (rgb[4 * i] * 19595 + rgb[4 * i + 1] * 38470 + rgb[4 * i + 2] * 7471 + 32768) >> 16; // as Pillow
    }
  }

  /** Free the memory that it takes, some 10 MB, until it is prepared again. */
  release() {
    Object.assign(this.canvas, { width: 0, height: 0 });
    this.context = this.colour = this.grey = null;
  }

  /** Grey under the colours, bilinear between patches, pale where nothing was seen; without levels as it is. */
  paint(levels, { table, opacity, inside }, lines) {
    if (!levels) return this.context.putImageData(this.colour, 0, 0);
    const { grey, cols, across, down } = this, { width, height } = this.canvas;
    const drawn = new ImageData(width, height), pixels = drawn.data, line = new Float32Array(cols);
    const steps = Math.floor(Math.max(width, height) / lines.line + 0.5) || 1; // width of a line
    const hatched = (x, y, under) =>
      160 + (under >> 2) - (Math.floor((x + y) / steps) % lines.stripe ? 0 : lines.darker);
    const marked = inside && new Uint8Array(width * height).fill(UNSEEN);
    for (let y = 0, i = 0; y < height; y++) {
      const above = down.low[y] * cols, below = down.high[y] * cols, step = down.share[y];
      for (let c = 0; c < cols; c++) line[c] = levels[above + c] * (1 - step) + levels[below + c] * step;
      for (let x = 0; x < width; x++, i++) {
        const share = line[across.low[x]] * (1 - across.share[x]) + line[across.high[x]] * across.share[x];
        const level = Math.floor(255 * clamp(share, 0, 1) + 0.5);
        const seen = across.seen[x] && down.seen[y], over = opacity[level], under = grey[i] * (1 - over);
        for (let k = 0; k < 3; k++) pixels[4 * i + k] = seen ? under + table[4 * level + k] * over : hatched(x, y, grey[i]);
        pixels[4 * i + 3] = 255;
        if (inside && seen) marked[i] = inside[level];
      }
    }
    if (inside) this.contour(pixels, marked, steps);
    return this.context.putImageData(drawn, 0, 0);
  }

  /** What was asked about, as closed lines of points in shares of the sides: white on wider black. */
  mark(rings, lines) {
    const { context, canvas } = this, wide = Math.floor(Math.max(canvas.width, canvas.height) / lines.line + 0.5) || 1;
    context.save(); // other lines keep their width
    for (const [lineWidth, strokeStyle] of [[wide + 2 * Math.ceil(wide / 2), "#000"], [wide, "#fff"]]) {
      Object.assign(context, { lineWidth, strokeStyle, lineJoin: "round" });
      for (const ring of rings) {
        context.beginPath();
        for (const [x, y] of ring) context.lineTo(x * canvas.width, y * canvas.height);
        context.closePath();
        context.stroke();
      }
    }
    context.restore();
  }

  /** Grey over patches that are taken away. */
  cover(patches) {
    const { context, canvas } = this;
    for (const patch of patches) {
      const [left, top, width, height] = this.frame(patch);
      const [x, y] = [left * canvas.width, top * canvas.height].map(Math.round);
      const [right, bottom] = [(left + width) * canvas.width, (top + height) * canvas.height].map(Math.round);
      context.fillStyle = "#8c8c8c";
      context.fillRect(x, y, right - x, bottom - y);
      context.strokeStyle = "#fff";
      context.strokeRect(x + 0.5, y + 0.5, right - x - 1, bottom - y - 1);
    }
  }

  /** A white line just within what is marked, a black one just outside, so many pixels wide. */
  contour(pixels, marked, steps) {
    const { width, height } = this.canvas;
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        if (marked[i] === UNSEEN) continue;
        const other = 1 - marked[i];
        const edge = (x >= steps && marked[i - steps] === other) || (x + steps < width && marked[i + steps] === other)
          || (y >= steps && marked[i - steps * width] === other)
          || (y + steps < height && marked[i + steps * width] === other);
        if (edge) pixels.fill(255 * marked[i], 4 * i, 4 * i + 3);
      }
    }
  }

  /** The edges of a patch that lie in the photograph, as shares of its sides: left, top, width, height. */
  frame(patch) {
    const { box, seen, original } = this, counts = [this.cols, this.rows];
    const cell = [patch % this.cols, Math.floor(patch / this.cols)];
    const edge = (k, step) => {
      const at = box[k] + ((box[k + 2] - box[k]) * (cell[k] + step)) / counts[k];
      return clamp(at, seen[k], seen[k + 2]) / original[k];
    };
    return [edge(0, 0), edge(1, 0), edge(0, 1) - edge(0, 0), edge(1, 1) - edge(1, 0)];
  }

  /** Lay an element over a patch; hide it if there is none. */
  outline(element, patch) {
    element.hidden = patch === null;
    if (patch === null) return;
    const [left, top, width, height] = this.frame(patch).map((share) => `${100 * share}%`);
    Object.assign(element.style, { left, top, width, height });
  }

  /** The patch at a point, given as shares of the photograph's sides; null where the model saw nothing. */
  patchAt(...point) {
    const { box, seen, original } = this, counts = [this.cols, this.rows];
    const [x, y] = point.map((share, k) => share * original[k]);
    if (x < seen[0] || x >= seen[2] || y < seen[1] || y >= seen[3]) return null;
    const cell = [x, y].map((at, k) => Math.floor(((at - box[k]) / (box[k + 2] - box[k])) * counts[k]));
    return clamp(cell[1], 0, this.rows - 1) * this.cols + clamp(cell[0], 0, this.cols - 1);
  }

  /** What is drawn on a canvas of its own, with a frame around a patch if one is given. */
  copy(patch) {
    const copy = document.createElement("canvas"), context = copy.getContext("2d");
    Object.assign(copy, { width: this.canvas.width, height: this.canvas.height });
    context.drawImage(this.canvas, 0, 0);
    if (patch !== null) {
      const frame = this.frame(patch).map((share, i) => share * (i % 2 ? copy.height : copy.width));
      for (const [lineWidth, strokeStyle] of [[5, "#000"], [2, "#fff"]]) {
        Object.assign(context, { lineWidth, strokeStyle });
        context.strokeRect(...frame);
      }
    }
    return copy;
  }
}

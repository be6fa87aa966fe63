// Numbers in words, as `captum_vit.wording` writes them, and how a look paints levels, as `captum_vit.colours` does.

const number = (value) => {
  const size = Number(Math.abs(value).toPrecision(3));
  return size > 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(2) : String(Number(value.toPrecision(3)));
};
const percent = (share) =>
  share > 0 && share < 5e-5 ? "< 0.01 %" : `${(100 * share).toFixed(share > 0 && share < 0.01 ? 2 : 1)} %`;
const greatest = (values) => values.reduce((a, b) => Math.max(a, b));

/** The patch that counts most; of two signs for or against. */
function strongest(values, signed) {
  const sizes = signed ? values.map(Math.abs) : values;
  return sizes.indexOf(greatest(sizes));
}

/** Values to levels 0..1 in the colours of a scale; of two signs 1/2 stands for 0. */
function levelled(values, { low, high }) {
  return Float32Array.from(values, (value) => (value - low) / (high - low));
}

/** One scale for all flows, as `captum_vit.colours.Scale.of` has it. */
function scaleOf(flows, signed) {
  const high = Math.max(...flows.map(greatest));
  const low = Math.min(...flows.map((flow) => flow.reduce((a, b) => Math.min(a, b))));
  const largest = Math.max(Math.abs(low), Math.abs(high));
  if (signed) return { low: -(largest || 1), high: largest || 1, signed };
  const widest = Math.max(high - low, LOOK.flat * largest);
  return { low, high: low + (widest || 1), signed };
}

/** Of each of 256 levels its colour, its opacity 0..1, and whether it lies within the contour. */
function paints({ tables }, signed, { boosted, fades, alpha, threshold, contour }) {
  const [plain, lifted] = tables[signed ? "signed" : "positive"], table = boosted ? lifted : plain;
  const strong = (level, share) => plain[4 * level + 3] >= 255 * share;
  const opacity = Float32Array.from({ length: 256 }, (_, level) =>
    strong(level, threshold) ? alpha * (fades ? table[4 * level + 3] / 255 : 1) : 0);
  const inside = contour === null ? null : Uint8Array.from({ length: 256 }, (_, level) => Number(strong(level, contour)));
  return { table, opacity, inside };
}

/** A pixel in the colour of a level as it looks on mid grey. */
function colour(pixels, i, { table, opacity }, level) {
  for (let k = 0; k < 3; k++) pixels[4 * i + k] = table[4 * level + k] * opacity[level] + 127.5 * (1 - opacity[level]);
  pixels[4 * i + 3] = 255;
}

/** A bar in the colours as they look on mid grey. */
function ramp(bar, made) {
  const drawn = new ImageData(256, 1);
  for (let i = 0; i < 256; i++) colour(drawn.data, i, made, i);
  bar.getContext("2d").putImageData(drawn, 0, 0);
}

/** From where to where the values of a map go that is nearly flat. */
function flatness(values) {
  const [least, most] = [values.reduce((a, b) => Math.min(a, b)), greatest(values)].map(number);
  return least === most ? `${least} everywhere` : `nearly flat, ${least} to ${most}`;
}

/** A patch's part of a map in words; of two signs, its part of all that has the same sign. */
function partOf(values, patch, { unit, signed }, whole = "the map") {
  const value = values[patch], sign = Math.sign(value);
  if (signed && !sign) return `no ${unit} for or against.`;
  const alike = signed ? values.filter((each) => Math.sign(each) === sign) : values;
  const total = alike.reduce((sum, each) => sum + Math.abs(each), 0);
  if (!total) return `no patch has ${unit} in this block.`;
  const side = signed ? (sign > 0 ? " for" : " against") : "";
  return `${percent(Math.abs(value) / total)} of ${whole}’s ${unit}${side} (value ${number(value)}).`;
}

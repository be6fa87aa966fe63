// Numbers in words, and values as levels in the colours: 0 the lowest, 1 the highest; of two signs 1/2 stands for 0.

const number = (value) => {
  const size = Math.abs(value);
  return size > 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(2) : String(Number(value.toPrecision(3)));
};
const percent = (share) => (share > 0 && share < 5e-5 ? "< 0.01 %" : `${(100 * share).toFixed(2)} %`);
const greatest = (values) => values.reduce((a, b) => Math.max(a, b));
const largest = (values) => values.reduce((size, value) => Math.max(size, Math.abs(value)), 0);

/** The values of the lowest and the highest colour: the least and the greatest, of two signs as far below 0 as above. */
function span(values, signed) {
  if (!signed) return [values.reduce((a, b) => Math.min(a, b)), greatest(values)];
  return [-largest(values), largest(values)];
}

/** Values to levels, linearly; the same everywhere is 0, of two signs 0 everywhere is 1/2. */
function stretched(values, signed) {
  const [low, high] = span(values, signed), width = high - low;
  return values.map((value) => (width > 0 ? (value - low) / width : Number(signed) / 2));
}

/** Values in DAAM's display, in which faint blocks can be seen beside the last: levels, and the value half way. */
function displayed(values, last, signed) {
  const [low, high] = span(values, signed), top = signed ? largest(last) : greatest(last);
  const scale = 2.5 / (top > 0 ? top : 1);
  const levels = values.map((value) => Math.tanh(scale * value)); // twice DAAM's sigmoid(5 x) - 1/2
  const middle = Math.atanh((Math.tanh(scale * low) + Math.tanh(scale * high)) / 2) / scale;
  return { middle, levels: stretched(levels, signed) };
}

/** A patch's part of a map in words; of two signs, its part of all that has the same sign. */
function partOf(values, patch, { unit, signed }) {
  const value = values[patch], sign = Math.sign(value);
  if (signed && !sign) return `no ${unit} for or against.`;
  const alike = signed ? values.filter((each) => Math.sign(each) === sign) : values;
  const total = alike.reduce((sum, each) => sum + Math.abs(each), 0);
  if (!total) return `no patch has ${unit} in this block.`;
  const side = signed ? (sign > 0 ? " for" : " against") : "";
  return `${percent(Math.abs(value) / total)} of the map’s ${unit}${side} (value ${number(value)}).`;
}

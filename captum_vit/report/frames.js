// All frames of a video, or slices of a volume, under their maps in one picture.

const TILE = 320, SMALLER = 160, LARGE = 32; // pixels of a frame's longer side: of so many frames, and of more
const NAMED = 112; // pixels that the name of a frame takes at least

/**
 * What a viewer shows, of every frame: a sheet as `sheet` makes it, the names above the frames.
 * All that can be chosen on the page is read before the first photograph is waited for.
 */
async function sheetOfFrames(viewer) {
  const { data, view, controls, attribution, photos, frame: now } = viewer, { names, kind } = data.frames;
  const look = controls.look(), bare = controls.alone || !look.alpha;
  const shown = names.map((_, frame) => { viewer.frame = frame; return view.shown(); });
  viewer.frame = now;
  const { signed } = shown[now], made = paints(LOOK, signed, look);
  const words = {
    title: `${data.name}. ${view.caption()}`, where: `${view.where()}; ${names.length} ${kind}s in one scale`,
    ends: bare ? null : viewer.ends(shown[now]), unit: viewer.part.unit.textContent,
  };
  const picture = new Picture(photos[0], document.createElement("canvas"), data);
  await picture.prepare();
  const { canvas: { width, height } } = picture, factor = (names.length > LARGE ? SMALLER : TILE) / Math.max(width, height);
  const [wide, high] = [width, height].map((side) => Math.round(side * factor)), across = Math.max(wide, NAMED);
  const columns = Math.min(names.length, Math.ceil(Math.sqrt((names.length * high) / across)));
  const all = document.createElement("canvas"), context = all.getContext("2d"), head = Math.round(1.5 * TEXT);
  const place = (i) => [(i % columns) * (across + 8), Math.floor(i / columns) * (high + head + 4)];
  const rows = Math.ceil(names.length / columns);
  Object.assign(all, { width: columns * (across + 8) - 8, height: rows * (high + head + 4) - 4 });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, all.width, all.height);
  context.font = `400 ${TEXT - 1}px ${FONT}`;
  context.fillStyle = "#1d2025";
  for (const [i, name] of names.entries()) {
    const [x, y] = place(i);
    await picture.turn(photos[i]);
    picture.paint(bare ? null : shown[i].levels, made, LOOK.lines);
    picture.mark(attribution.marks, LOOK.lines);
    context.fillText(name, x, y + head - 6, across);
    context.drawImage(picture.canvas, x, y + head, wide, high);
  }
  const bar = Object.assign(document.createElement("canvas"), { width: 256, height: 1 });
  ramp(bar, made);
  return sheet(all, bar, words);
}

/** What the buttons that save say: which of the frames they are of. */
function nameSaving(part, kind) {
  const words = {
    png: `This ${kind}, PNG`, svg: `This ${kind}, SVG`, frames: `All ${kind}s, PNG`, csv: `Map of this ${kind}, CSV`,
    npy: `Map of this ${kind}, .npy`, flow: "All blocks and cells, .npy",
  };
  for (const [name, said] of Object.entries(words)) part[`save-${name}`].textContent = said;
  part["save-frames"].hidden = false;
}

// A small picture of each head in each layer, of which one is in the tab order and arrow keys choose.

class HeadGrid {
  constructor(element, view) {
    Object.assign(this, { view, element });
    element.addEventListener("keydown", (event) => this.key(event));
  }

  /** Of the layers of a method, which may be others than those of the last one. */
  fill(layers) {
    const { element, view } = this, { cols, rows } = view.viewer;
    Object.assign(this, { layers: String(layers), cells: layers.map(() => []) });
    element.replaceChildren();
    layers.forEach((layer, block) => {
      const line = document.createElement("div");
      line.setAttribute("role", "row");
      const name = document.createElement("span");
      name.setAttribute("role", "rowheader");
      name.textContent = block + 1;
      line.append(name);
      for (let head = 0; head < view.rows(layer); head++) line.append(this.cell(block, head, layer, rows, cols));
      element.append(line);
    });
    this.paint();
  }

  cell(block, head, layer, height, width) {
    const cell = document.createElement("button"), canvas = document.createElement("canvas");
    cell.type = "button";
    cell.setAttribute("role", "gridcell");
    cell.setAttribute("aria-label", `${layer}, head ${head + 1}`);
    cell.title = `${layer}, head ${head + 1}`;
    cell.addEventListener("click", () => this.choose(block, head));
    cell.append(Object.assign(canvas, { width, height }));
    this.cells[block][head] = { cell, canvas, layer };
    return cell;
  }

  /** In the colours of a map of shares as they look on mid grey, each head up to its own greatest share. */
  paint() {
    const made = paints(LOOK, false, { ...this.view.viewer.controls.look(), alpha: 1, threshold: 0, contour: null });
    this.cells.forEach((line) => line.forEach(({ canvas, layer }, head) => {
      const { levels } = this.view.weights(head, layer), drawn = new ImageData(canvas.width, canvas.height);
      levels.forEach((level, i) => colour(drawn.data, i, made, Math.floor(255 * level + 0.5)));
      canvas.getContext("2d").putImageData(drawn, 0, 0);
    }));
  }

  /** Mark the chosen head; in a layer without any, keys begin at the first one. */
  mark() {
    const { at, viewer } = this.view, { layers } = viewer.attribution;
    if (this.layers !== String(layers)) this.fill(layers);
    const cells = this.cells.flat(), chosen = this.cells[viewer.block][at];
    for (const each of cells) {
      each.cell.setAttribute("aria-selected", String(each === chosen));
      each.cell.tabIndex = each === (chosen ?? cells[0]) ? 0 : -1;
    }
  }

  choose(block, head) {
    this.view.choose(block, head);
    this.cells[block][head].cell.focus();
  }

  key(event) {
    const { at, viewer } = this.view, last = this.cells.length - 1;
    const to = {
      ArrowUp: [viewer.block - 1, at], ArrowDown: [viewer.block + 1, at],
      ArrowLeft: [viewer.block, at - 1], ArrowRight: [viewer.block, at + 1],
    }[event.key];
    if (!to) return;
    event.preventDefault();
    const block = clamp(to[0], 0, last);
    if (this.cells[block].length) this.choose(block, clamp(to[1], 0, this.cells[block].length - 1));
  }
}

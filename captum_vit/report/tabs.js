/** A row of tabs, of which one is in the tab order and arrow keys choose. */
class Tabs {
  constructor(list, panel, titles, choose) {
    this.choose = choose;
    this.tabs = titles.map((title, i) => {
      const tab = document.createElement("button");
      Object.assign(tab, { type: "button", id: `${list.dataset.part}-${panel.id}-${i}`, textContent: title });
      tab.setAttribute("role", "tab");
      tab.setAttribute("aria-controls", panel.id);
      tab.addEventListener("click", () => choose(i));
      list.append(tab);
      return tab;
    });
    list.addEventListener("keydown", (event) => this.key(event));
  }

  mark(chosen) {
    this.chosen = chosen;
    this.tabs.forEach((tab, i) => {
      tab.setAttribute("aria-selected", String(i === chosen));
      tab.tabIndex = i === chosen ? 0 : -1;
    });
  }

  key(event) {
    const shown = this.tabs.flatMap((tab, i) => (tab.hidden ? [] : [i]));
    const last = shown.length - 1, at = shown.indexOf(this.chosen);
    const to = { ArrowRight: at < last ? at + 1 : 0, ArrowLeft: at > 0 ? at - 1 : last, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.tabs[shown[to]].focus();
    this.choose(shown[to]);
  }
}

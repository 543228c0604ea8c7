"use strict";
// Several sources side by side: a column each, the same neuron in the same row, scrolled together.

const BESIDE_SORTS = {
  unit: "Layer and unit",
  differ: "Captions that differ most",
  score: "Score in the first, highest first",
};

class Beside extends ListPage {
  constructor(main, overview, options) {
    const sources = chosenSources(overview.sources, options.of);
    const list = new List("Neurons, a column for each run", () => measureBeside(sources.length), (place) => this.card(place));
    super("beside", list, {of: options.of});
    Object.assign(this, {overview, sources});
    this.options = {sort: "unit", q: "", ...options};
    this.layers = commonLayers(this.sources, options.layer);
    this.parts = this.layers.flatMap((row) => partsOf(row.layers.filter(Boolean)));
    this.rows = [];
    this.build(main);
    this.ready = loadParts(this.parts, (count) => this.find(count));
  }

  build(main) {
    const under = `${document.querySelector(".bar").offsetHeight}px`;
    const heads = h("div", {class: "heads", style: {"--columns": this.sources.length, "--under": under}},
      this.sources.map((source) => h("a", {href: address("gallery", {source: source.name, layer: this.options.layer || ""})}, source.name)));
    main.replaceChildren(h("h1", {}, "Side by side ", h("small", {class: "name"}, this.options.layer || "all layers")), this.form(), this.count,
      this.nothing, heads, this.list.element);
    document.title = `Side by side – ${this.overview.title}`;
  }

  form() {
    const all = this.overview.sources;
    const layers = commonLayers(this.sources).map(({name}) => [name, name]);
    const toggle = (source, checked) => {
      const of = all.filter((other) => (other === source ? checked : this.sources.includes(other)));
      this.leave({...this.options, of: of.map((other) => other.number).join(" "), layer: ""});
    };
    return this.filters(
      choice("Layer", [["", "All layers"], ...layers], this.options.layer, (layer) => this.leave({...this.options, layer})),
      choice("Sort by", Object.entries(BESIDE_SORTS), this.options.sort, (sort) => this.change({sort})),
      tick("Only what differs", this.options.only === "differing", (checked) => this.change({only: checked ? "differing" : ""})),
      all.length > 2 && all.map((source) => tick(source.name, this.sources.includes(source), (checked) => toggle(source, checked))));
  }

  find(loaded = this.loaded) {
    this.loaded = loaded;
    if (this.closed) return;
    if (this.readFrom !== loaded) this.read(loaded);
    this.rows = besideRows(this.all, this.options);
    const shown = this.list.show(this.rows.length * this.sources.length) / this.sources.length;
    const total = this.layers.reduce((sum, {units}) => sum + units.length, 0);
    this.tell(this.rows.length, total, shown, loaded, ` The captions of ${this.differing.toLocaleString("en")} differ.`);
  }

  /** Every neuron with its cells, one of each source, as far as they are loaded. */
  read(loaded) {
    this.readFrom = loaded;
    const cells = (layers, unit) => layers.map((layer) => layer && hasUnit(layer, unit) && rowOf(layer, unit, this.overview));
    const all = this.layers.flatMap(({layers, units}) => units.map((unit) => cells(layers, unit)));
    this.all = all.filter((row) => row.some(Boolean));
    this.differing = this.all.filter((row) => agreementOf(row) < 1).length;
  }

  card(place) {
    const row = this.rows[Math.floor(place / this.sources.length)];
    const cell = row[place % this.sources.length];
    const card = cell && neuronCard(cell.layer, cell.unit, this.overview);
    if (card && agreementOf(row) < 1) card.classList.add("differs");
    return card || null;
  }
}

/** A card across where there is room: the picture beside what is said of it. */
function measureBeside(columns) {
  const across = (width) => width >= 380;
  return {
    columns,
    height: (width) => (across(width) ? 200 : width + 128),
    shape: (width) => (across(width) ? "across" : width < 240 ? "narrow" : ""),
  };
}

/** The sources of these numbers, "0 2"; by default the first two. */
function chosenSources(sources, of) {
  const chosen = (of || "").split(" ").filter(Boolean).map((text) => sources[Number(text)]).filter(Boolean);
  return chosen.length ? chosen : sources.slice(0, 2);
}

/** By name, the layers that any of these sources has: of each source its own, or undefined; and the units of any. */
function commonLayers(sources, only) {
  const names = new Set(sources.flatMap((source) => source.ordered.map((layer) => layer.name)));
  return [...names].filter((name) => !only || name === only).map((name) => {
    const layers = sources.map((source) => layerNamed(source, name));
    const there = layers.filter(Boolean);
    const first = Math.min(...there.map((layer) => layer.first_unit));
    const end = Math.max(...there.map((layer) => layer.first_unit + layer.units));
    const units = Array.from({length: end - first}, (_, index) => first + index);
    return {name, layers, units: units.filter((unit) => there.some((layer) => hasUnit(layer, unit)))};
  });
}

/** The rows that the options leave, in the order that they ask for. */
function besideRows(rows, {q, only, sort}) {
  const words = wordsOf(q);
  const says = (cell) => cell && cell.caption !== null && words.every((word) => cell.caption.toLowerCase().includes(word));
  const found = rows.filter((cells) => (!words.length || cells.some(says)) && (only !== "differing" || agreementOf(cells) < 1));
  if (!sort || sort === "unit") return found;
  const key = sort === "differ" ? agreementOf : (cells) => -(cells[0]?.score ?? -Infinity);
  return found.map((cells) => [key(cells), cells]).sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0)).map(([, cells]) => cells);
}

const saidBy = new Map();

/** The words of a caption, kept. */
function saidWords(caption) {
  if (!saidBy.has(caption)) saidBy.set(caption, new Set((caption ?? "").toLowerCase().match(/[\p{L}\p{N}]+/gu)));
  return saidBy.get(caption);
}

/** How far the first caption agrees with the others: the words in both, twice, by the words of both; 1 where all is one. */
function agreementOf(cells) {
  const there = cells.filter(Boolean);
  const first = there[0];
  return Math.min(...there.map((cell) => {
    if (cell.caption === first.caption) return 1;
    const [a, b] = [saidWords(first.caption), saidWords(cell.caption)];
    const both = [...a].filter((word) => b.has(word)).length;
    return a.size + b.size ? Math.min(0.999, (2 * both) / (a.size + b.size)) : 0.999;
  }));
}

"use strict";
// A layer's neurons, or a whole source's: searched, filtered and sorted here.

const SORTS = {
  unit: "Layer and unit",
  score: "Score, highest first",
  support: "Support, highest first",
  unsupported: "Support, lowest first",
  trust: "Trust, highest first",
  distrust: "Trust, lowest first",
  top: "Activation, highest first",
  caption: "Caption, A to Z",
};
const LOWEST_FIRST = {unsupported: "support", distrust: "trust"};

/** One gallery on the screen. */
class Gallery extends ListPage {
  constructor(main, overview, options) {
    const source = named(overview.sources, options.source);
    super("gallery", new List("Neurons", measureCards, (place) => this.card(place)), {source: source.name});
    Object.assign(this, {overview, source});
    this.layer = options.layer ? layerNamed(this.source, options.layer) : null;
    this.options = {sort: "unit", q: "", ...options, source: this.source.name};
    this.parts = partsOf(this.layer ? [this.layer] : this.source.ordered);
    this.found = new Uint32Array(0);
    this.build(main);
    this.ready = loadParts(this.parts, (count) => this.find(count));
  }

  build(main) {
    const where = this.layer ? this.layer.name : "All layers";
    main.replaceChildren(h("h1", {}, h("span", {class: this.layer && "name"}, where), " ", h("small", {}, this.source.name)),
      this.form(), this.count, this.nothing, this.list.element);
    document.title = `${where} – ${this.overview.title}`;
  }

  form() {
    const {sources} = this.overview;
    const lacks = ["support", "trust"].filter((name) => !this.source[name]);
    const sorts = Object.entries(SORTS).filter(([name]) => !lacks.includes(LOWEST_FIRST[name] || name));
    const layers = [["", "All layers"], ...this.source.ordered.map((layer) => [layer.name, `${layer.name} (${layer.units})`])];
    const names = sources.map((source) => [source.name, source.name]);
    return this.filters(
      sources.length > 1 && choice("Network", names, this.options.source, (source) => this.leave({source, q: this.options.q})),
      choice("Layer", layers, this.options.layer, (layer) => this.leave({...this.options, layer})),
      choice("Sort by", sorts, this.options.sort, (sort) => this.change({sort})),
      this.atLeast("score", "Score at least", this.source.score),
      this.atLeast("support", "Support at least", this.source.support),
      this.atLeast("trust", "Trust at least", this.source.trust),
      tick("Dead ones too", this.options.dead !== "no", (checked) => this.change({dead: checked ? "" : "no"})));
  }

  atLeast(name, label, plot) {
    if (!plot) return null;
    const given = limitOf(this.options[name]);
    const step = Math.max((plot.high - plot.low) / 100, 1e-6);
    const shown = h("output", {}, given === null ? "any" : number(given));
    const slider = h("input", {type: "range", "aria-label": label, min: plot.low, max: plot.high, step,
      value: given ?? plot.low, oninput: (event) => {
        const value = Number(event.target.value);
        const any = value <= plot.low + step / 2;
        shown.textContent = any ? "any" : number(value);
        this.change({[name]: any ? "" : value.toFixed(3)});
      }});
    return h("label", {}, h("span", {}, label, " ", shown), slider);
  }

  find(loaded = this.loaded) {
    this.loaded = loaded;
    if (this.closed) return;
    this.found = search(this.parts, this.options);
    const shown = this.list.show(this.found.length);
    const all = this.parts.reduce((sum, part) => sum + part.count, 0);
    this.tell(this.found.length, all, shown, loaded);
  }

  card(place) {
    const {part, offset} = unpacked(this.found[place], this.parts);
    return neuronCard(part.layer, part.first + offset, this.overview);
  }
}

/** Cards at least 262 pixels wide; on a phone one a row, with two rows of three pictures. */
function measureCards(whole) {
  const columns = Math.max(1, Math.floor((whole + GAP) / (262 + GAP)));
  return {
    columns,
    height: (width) => (columns === 1 ? Math.round((width * 2) / 3) : width) + 146,
    shape: () => (columns === 1 ? "two" : ""),
  };
}

// --- finding ------------------------------------------------------------------------------------------------------

const PLACES = 4096; // the most neurons of a part
const unpacked = (code, parts) => ({part: parts[Math.floor(code / PLACES)], offset: code % PLACES});

function partsOf(layers) {
  return layers.flatMap((layer) => {
    const size = layer.source.neurons_per_part;
    const count = Math.ceil(layer.units / size);
    return Array.from({length: count}, (_, index) => ({
      layer, number: layer.first_part + index, first: layer.first_unit + index * size, count: Math.min(size, layer.units - index * size)}));
  });
}

/** Numbers are shown in steps of so much. */
const SHOWN = 0.01;

/** A limit of an address as a number; null where there is none, or no number. */
const limitOf = (text) => (text && Number.isFinite(Number(text)) ? Number(text) : null);

const wordsOf = (q) => (q || "").toLowerCase().split(/\s+/).filter(Boolean);

/** The places of the neurons that the options leave, in the order that they ask for. */
function search(parts, options) {
  const words = wordsOf(options.q);
  const limits = ["score", "support", "trust"].map((name) => [name, limitOf(options[name])]);
  const least = limits.filter(([, limit]) => limit !== null);
  const codes = [];
  parts.forEach((part, index) => {
    if (!part.table) return;
    const {captions, caption} = part.table;
    const says = captions.map((text) => words.every((word) => text.toLowerCase().includes(word)));
    for (let offset = 0; offset < caption.length; offset++) {
      const which = caption[offset];
      if (which < 0 ? words.length || options.dead === "no" : !says[which]) continue;
      // What has none is below anything; what is shown as 1.00 is not below 1.
      if (!least.every(([name, limit]) => (part.table[name]?.[offset] ?? -Infinity) >= limit - SHOWN / 2)) continue;
      codes.push(index * PLACES + offset);
    }
  });
  return sorted(Uint32Array.from(codes), parts, options.sort);
}

function sorted(codes, parts, sort) {
  if (!sort || sort === "unit") return codes;
  if (sort === "caption") {
    const text = (code) => {
      const {part, offset} = unpacked(code, parts);
      return part.table.captions[part.table.caption[offset]] ?? "\uffff";
    };
    const texts = new Map(Array.from(codes, (code) => [code, text(code)]));
    return codes.sort((a, b) => (texts.get(a) < texts.get(b) ? -1 : texts.get(a) > texts.get(b) ? 1 : a - b));
  }
  const sign = LOWEST_FIRST[sort] ? 1 : -1;
  const name = LOWEST_FIRST[sort] || sort;
  const keys = new Float64Array(parts.length * PLACES);
  for (const code of codes) {
    const {part, offset} = unpacked(code, parts);
    const value = part.table[name] ? part.table[name][offset] : null;
    keys[code] = value === null ? Infinity : sign * value; // what has none comes last
  }
  return codes.sort((a, b) => (keys[a] < keys[b] ? -1 : keys[a] > keys[b] ? 1 : a - b));
}

// --- a card -------------------------------------------------------------------------------------------------------

function neuronCard(layer, unit, overview) {
  const row = rowOf(layer, unit, overview);
  const others = h("p", {class: "others"});
  const card = h("article", {class: "card", role: "listitem"},
    h("a", {href: neuronAddress(layer, unit)},
      row.caption === null ? h("div", {class: "block dead"}, "dead")
        : block(layer, unit, overview, `The strongest images of ${layer.name} ${unit}`),
      h("h2", {title: row.caption}, captionText(row.caption))),
    h("p", {class: "where name"}, `${layer.name} / ${unit}`),
    h("p", {class: "numbers"}, numbers(row)), others);
  if (row.caption !== null) {
    loadNeuron(layer, unit, overview).then((neuron) => {
      others.textContent = neuron.beams.slice(1, 4).map((beam) => captionText(beam[0])).join(" · ");
    }, () => {});
  }
  return card;
}

const numbers = (row) => [
  h("span", {}, "score ", h("b", {}, number(row.score))),
  ...["support", "trust"].map((name) => row[name] != null && h("span", {}, `${name} `, h("b", {}, number(row[name])))),
  h("span", {title: "The strongest exemplar's activation"}, "peak ", h("b", {}, short(row.top))),
];

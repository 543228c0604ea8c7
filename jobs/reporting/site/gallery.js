"use strict";
// A layer's neurons, or a whole source's: searched, filtered and sorted here, and only what is on the screen drawn.

const SORTS = {
  unit: "Layer and unit",
  score: "Score, highest first",
  trust: "Trust, highest first",
  distrust: "Trust, lowest first",
  top: "Activation, highest first",
  caption: "Caption, A to Z",
};
const MOST_PIXELS = 15e6; // a browser's page cannot be much higher; a longer list is cut, and says so
const WAIT_MS = 120; // between two typed letters or two loaded parts, before the list is made anew

/** One gallery on the screen; `close` lets go of the window's events. */
class Gallery {
  constructor(main, overview, options) {
    this.overview = overview;
    this.source = named(overview.sources, options.source);
    this.layer = options.layer ? layerNamed(this.source, options.layer) : null;
    this.options = {sort: "unit", q: "", ...options, source: this.source.name};
    this.parts = partsOf(this.layer ? [this.layer] : this.source.ordered, overview);
    this.cards = new Map();
    this.found = new Uint32Array(0);
    this.build(main);
    this.onscroll = () => requestAnimationFrame(() => this.draw());
    addEventListener("scroll", this.onscroll, {passive: true});
    addEventListener("resize", this.onscroll);
    this.ready = this.read();
  }

  close() {
    removeEventListener("scroll", this.onscroll);
    removeEventListener("resize", this.onscroll);
    this.closed = true;
  }

  build(main) {
    this.count = h("p", {class: "note"}, "Loading…");
    this.list = h("div", {class: "list", role: "list", "aria-label": "Neurons"});
    const where = this.layer ? this.layer.name : "All layers";
    main.replaceChildren(h("h1", {}, where, " ", h("small", {}, this.source.name)), this.form(), this.count, this.list);
    this.list.addEventListener("keydown", (event) => this.move(event));
    document.title = `${where} – ${this.overview.title}`;
  }

  form() {
    const {sources} = this.overview;
    const trusted = Boolean(this.source.trust);
    const sorts = Object.entries(SORTS).filter(([name]) => trusted || !name.includes("trust"));
    const layers = [["", "All layers"], ...this.source.ordered.map((layer) => [layer.name, `${layer.name} (${layer.units})`])];
    return h("form", {class: "filters", "aria-label": "Filters", onsubmit: (event) => event.preventDefault()},
      sources.length > 1 && this.choice("source", "Network", sources.map((source) => [source.name, source.name])),
      this.choice("layer", "Layer", layers),
      this.choice("sort", "Sort by", sorts),
      this.atLeast("score", "Score at least", this.source.score),
      trusted && this.atLeast("trust", "Trust at least", this.source.trust),
      h("label", {class: "check"}, h("input", {type: "checkbox", "aria-label": "Dead ones too", checked: this.options.dead !== "no" && "",
        onchange: (event) => this.change({dead: event.target.checked ? "" : "no"})}), "Dead ones too"));
  }

  choice(name, label, entries) {
    const select = h("select", {"aria-label": label, onchange: (event) => {
      if (name === "source") this.leave({source: event.target.value, q: this.options.q});
      else if (name === "layer") this.leave({...this.options, layer: event.target.value});
      else this.change({[name]: event.target.value});
    }}, entries.map(([value, text]) => h("option", {value, selected: value === (this.options[name] || "") && ""}, text)));
    return h("label", {}, h("span", {}, label), select);
  }

  atLeast(name, label, plot) {
    if (!plot) return null;
    const given = this.options[name] ?? "";
    const step = Math.max((plot.high - plot.low) / 100, 1e-6);
    const shown = h("output", {}, given === "" ? "any" : number(Number(given)));
    const slider = h("input", {type: "range", "aria-label": label, min: plot.low, max: plot.high, step,
      value: given === "" ? plot.low : given, oninput: (event) => {
        const value = Number(event.target.value);
        const any = value <= plot.low + step / 2;
        shown.textContent = any ? "any" : number(value);
        this.change({[name]: any ? "" : value.toFixed(3)});
      }});
    return h("label", {}, h("span", {}, label, " ", shown), slider);
  }

  /** Another choice on this page: the address follows, and the list. */
  change(options) {
    Object.assign(this.options, options);
    replaceAddress(address("gallery", this.options));
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.find(), WAIT_MS);
  }

  leave(options) {
    location.hash = address("gallery", options);
  }

  /** Loads every part; the list grows meanwhile. */
  async read() {
    let last = performance.now();
    this.read_parts = 0;
    await Promise.all(this.parts.map(async (part) => {
      part.table = await load(partKey(this.source, part.number));
      this.read_parts += 1;
      if (performance.now() - last > WAIT_MS) {
        this.find();
        last = performance.now();
      }
    }));
    this.find();
  }

  find() {
    if (this.closed) return;
    this.found = search(this.parts, this.options);
    for (const card of this.cards.values()) card.remove();
    this.cards.clear();
    this.draw();
    const all = this.parts.reduce((sum, part) => sum + part.count, 0);
    const cut = this.shown < this.found.length ? ` The first ${this.shown.toLocaleString("en")} are listed: narrow the search.` : "";
    const loading = this.read_parts < this.parts.length ? ` Loading ${this.read_parts} of ${this.parts.length} files…` : "";
    this.count.textContent = `${this.found.length.toLocaleString("en")} of ${counted(all, "neuron")}.${cut}${loading}`;
    if (!loading) say(counted(this.found.length, "neuron"));
  }

  /** Puts the cards on the screen that belong there, and takes the others away. */
  draw() {
    if (this.closed) return;
    const {columns, width, height} = this.measure();
    this.shown = Math.min(this.found.length, Math.floor(MOST_PIXELS / height) * columns);
    this.list.style.height = `${Math.ceil(this.shown / columns) * height}px`;
    const above = -this.list.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(above / height) - 1) * columns;
    const end = Math.min(this.shown, (Math.ceil((above + innerHeight) / height) + 1) * columns);
    for (const [place, card] of this.cards) {
      if (place < first || place >= end || card.width !== width) {
        card.remove();
        this.cards.delete(place);
      }
    }
    for (let place = first; place < end; place++) {
      if (!this.cards.has(place)) this.cards.set(place, this.put(place, columns, width, height));
    }
  }

  measure() {
    const whole = this.list.clientWidth;
    const gap = 14;
    const columns = Math.max(1, Math.floor((whole + gap) / (262 + gap)));
    const width = Math.floor((whole - gap * (columns - 1)) / columns);
    const picture = columns === 1 ? Math.round((width * 2) / 3) : width; // on a phone two rows of three
    return {columns, width, height: picture + 152 + gap};
  }

  put(place, columns, width, height) {
    const {part, offset} = unpacked(this.found[place], this.parts);
    const card = neuronCard(part, offset, this.overview);
    card.width = width;
    Object.assign(card.style, {width: `${width}px`, height: `${height - 14}px`, left: `${(place % columns) * (width + 14)}px`,
      top: `${Math.floor(place / columns) * height}px`});
    card.classList.toggle("two", columns === 1);
    card.setAttribute("aria-setsize", this.shown);
    card.setAttribute("aria-posinset", place + 1);
    card.dataset.place = place;
    // In the order of the list, so that Tab goes from each to the next.
    const after = [...this.list.children].find((other) => Number(other.dataset.place) > place);
    this.list.insertBefore(card, after || null);
    return card;
  }

  /** Arrow keys go from card to card, also to those that are not drawn yet. */
  move(event) {
    const {columns, height} = this.measure();
    const step = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns}[event.key];
    const at = event.target.closest("[data-place]");
    if (!step || !at) return;
    const place = Number(at.dataset.place) + step;
    if (place < 0 || place >= this.shown) return;
    event.preventDefault();
    const top = this.list.getBoundingClientRect().top + scrollY + Math.floor(place / columns) * height;
    const bar = document.querySelector(".bar").offsetHeight + 8;
    if (top < scrollY + bar) scrollTo({top: top - bar, behavior: "instant"});
    else if (top + height > scrollY + innerHeight) scrollTo({top: top + height - innerHeight, behavior: "instant"});
    this.draw();
    this.cards.get(place)?.querySelector("a").focus({preventScroll: true});
  }
}

// --- finding ------------------------------------------------------------------------------------------------------

const PLACES = 4096; // the most neurons of a part
const unpacked = (code, parts) => ({part: parts[Math.floor(code / PLACES)], offset: code % PLACES});

function partsOf(layers) {
  return layers.flatMap((layer) => {
    const size = layer.source.neurons_per_part;
    const count = Math.ceil(layer.units / size);
    return Array.from({length: count}, (_, index) => ({
      layer, number: layer.first_part + index, first: index * size, count: Math.min(size, layer.units - index * size)}));
  });
}

/** The places of the neurons that the options leave, in the order that they ask for. */
function search(parts, options) {
  const words = (options.q || "").toLowerCase().split(/\s+/).filter(Boolean);
  const least = {score: Number(options.score || -Infinity), trust: Number(options.trust || -Infinity)};
  const codes = [];
  parts.forEach((part, index) => {
    if (!part.table) return;
    const {captions, caption, score, trust} = part.table;
    const says = captions.map((text) => words.every((word) => text.toLowerCase().includes(word)));
    for (let offset = 0; offset < caption.length; offset++) {
      const which = caption[offset];
      if (which < 0 ? words.length || options.dead === "no" : !says[which]) continue;
      if (least.score > -Infinity && !(score[offset] >= least.score)) continue;
      if (least.trust > -Infinity && !(trust && trust[offset] >= least.trust)) continue;
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
  const sign = sort === "distrust" ? 1 : -1;
  const name = sort === "distrust" ? "trust" : sort;
  const keys = new Float64Array(parts.length * PLACES);
  for (const code of codes) {
    const {part, offset} = unpacked(code, parts);
    const value = part.table[name] ? part.table[name][offset] : null;
    keys[code] = value === null ? Infinity : sign * value; // what has none comes last
  }
  return codes.sort((a, b) => (keys[a] < keys[b] ? -1 : keys[a] > keys[b] ? 1 : a - b));
}

// --- a card -------------------------------------------------------------------------------------------------------

function neuronCard(part, offset, overview) {
  const {layer} = part;
  const row = rowOf(layer, part.first + offset, overview);
  const others = h("p", {class: "others"});
  const card = h("article", {class: "card", role: "listitem"},
    h("a", {href: neuronAddress(layer, row.unit)},
      row.caption === null ? h("div", {class: "block dead"}, "dead")
        : block(layer, row.unit, overview, `The strongest images of ${layer.name} ${row.unit}`),
      h("h2", {}, row.caption ?? "active on no image")),
    h("p", {class: "where"}, `${layer.name} / ${row.unit}`),
    h("p", {class: "numbers"}, numbers(row)), others);
  if (row.caption !== null) {
    loadNeuron(layer, row.unit, overview).then((neuron) => {
      others.textContent = neuron.beams.slice(1, 4).map((beam) => beam[0]).join(" · ");
    }, () => {});
  }
  return card;
}

const numbers = (row) => [
  h("span", {}, "score ", h("b", {}, number(row.score))),
  row.trust === undefined || row.trust === null ? null : h("span", {}, "trust ", h("b", {}, number(row.trust))),
  h("span", {}, "activation ", h("b", {}, short(row.top))),
];

"use strict";
// What the report knows. Data lies in scripts that call MAMI.put, because a page from disk may load scripts and images
// but read no files. A script is loaded when something of it is first shown.

const MAMI = {
  loaded: new Map(),
  put(key, value) {
    this.loaded.set(key, value);
  },
};

const asked = new Map();

/** What the data script of this name holds. */
function load(key) {
  if (!asked.has(key)) {
    asked.set(key, new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `data/${key}.js`;
      script.onload = () => resolve(MAMI.loaded.get(key));
      script.onerror = () => {
        asked.delete(key);
        reject(new Error(`${script.src} is missing: the report is not whole. Run mami report again.`));
      };
      document.head.append(script);
    }));
  }
  return asked.get(key);
}

const padded = (number, length) => String(number).padStart(length, "0");
const partKey = (source, part) => `${source.number}/${padded(part, 5)}`;
const groupKey = (source, part, group) => `${partKey(source, part)}/${padded(group, 3)}`;

/** The overview, its sources and layers numbered and pointing at each other, layer 2 before layer 10. */
async function loadOverview() {
  const overview = await load("overview");
  overview.sources.forEach((source, number) => {
    source.number = number;
    source.layers.forEach((layer, index) => Object.assign(layer, {index, source}));
    source.ordered = [...source.layers].sort((a, b) => a.name.localeCompare(b.name, "en", {numeric: true}));
  });
  return overview;
}

const named = (sources, name) => sources.find((source) => source.name === name) || sources[0];
const layerNamed = (source, name) => source.layers.find((layer) => layer.name === name);

/** Whether a layer's unit is labelled: where only some are, its first is another than 0. */
const hasUnit = (layer, unit) => unit >= layer.first_unit && unit < layer.first_unit + layer.units;

/** Where a unit's data lie: its part, its place in it, and the group and place in the group. */
function placeOf(layer, unit, overview) {
  const size = layer.source.neurons_per_part;
  const place = unit - layer.first_unit;
  const part = layer.first_part + Math.floor(place / size);
  const offset = place % size;
  return {part, offset, group: Math.floor(offset / overview.group), slot: offset % overview.group};
}

/** One neuron's details: its exemplars, the other captions, attention, histogram, and the neurons most like it. */
async function loadNeuron(layer, unit, overview) {
  const {part, group, slot} = placeOf(layer, unit, overview);
  return (await load(groupKey(layer.source, part, group)))[slot];
}

/** A neuron's row of the index, or undefined while its part is not loaded. */
function rowOf(layer, unit, overview) {
  const {part, offset} = placeOf(layer, unit, overview);
  const table = MAMI.loaded.get(partKey(layer.source, part));
  return table && {
    layer,
    unit,
    caption: table.captions[table.caption[offset]] ?? null,
    score: table.score[offset],
    support: table.support && table.support[offset],
    trust: table.trust && table.trust[offset],
    top: table.top[offset],
  };
}

// --- the address: "#/gallery?layer=layer4&q=dog" ------------------------------------------------------------------

function readAddress() {
  const [path, query] = (location.hash.slice(1) || "/").split(/\?(.*)/s);
  return {page: path.replace(/^\//, "") || "overview", options: Object.fromEntries(new URLSearchParams(query || ""))};
}

function address(page, options) {
  const given = Object.entries(options).filter(([, value]) => value !== "" && value != null);
  const query = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return `#/${page === "overview" ? "" : page}${query ? `?${query}` : ""}`;
}

const galleryAddress = (layer) => address("gallery", {source: layer.source.name, layer: layer.name});
const neuronAddress = (layer, unit) => address("neuron", {source: layer.source.name, layer: layer.name, unit});

"use strict";
// One neuron: its exemplars at full size, the captions that were weighed, what each word was read from, how it fires,
// and the neurons most like it.

async function showNeuron(main, overview, options) {
  const source = named(overview.sources, options.source);
  const layer = layerNamed(source, options.layer);
  const unit = Number(options.unit);
  if (!layer || !hasUnit(layer, unit)) {
    main.replaceChildren(h("p", {class: "note"}, `There is no unit ${options.unit} of ${options.layer} here.`));
    return;
  }
  const [neuron] = await Promise.all([
    loadNeuron(layer, unit, overview), load(partKey(source, placeOf(layer, unit, overview).part))]);
  const row = rowOf(layer, unit, overview);
  const figures = neuron.images.map((image, rank) => exemplarFigure(neuron, rank, overview));
  main.replaceChildren(...[
    h("nav", {class: "steps", "aria-label": "Neurons"},
      h("a", {class: "name", href: galleryAddress(layer)}, layer.name),
      hasUnit(layer, unit - 1) && h("a", {href: neuronAddress(layer, unit - 1), rel: "prev", "aria-keyshortcuts": "k"}, "← previous"),
      hasUnit(layer, unit + 1) && h("a", {href: neuronAddress(layer, unit + 1), rel: "next", "aria-keyshortcuts": "j"}, "next →"),
      overview.sources.length > 1 && h("a", {href: address("beside", {layer: layer.name})}, "side by side")),
    h("h1", {class: "caption"}, captionText(row.caption), " ",
      h("small", {class: "name"}, `${source.name} / ${layer.name} / ${unit}`)),
    h("p", {class: "numbers"}, numbers(row), neuron.more.map(([name, value]) => h("span", {}, `${name} `, h("b", {}, short(value))))),
    h("p", {class: "quiet"}, figures.length
      ? "The images that drive it highest, strongest first. Outlined: where it is active. Point at one to see all of it."
      : "No image of the run drives it: it has no exemplars, and nothing is said of it."),
    h("div", {class: "exemplars"}, figures),
    h("div", {class: "columns"}, captionTable(neuron), attentionTable(neuron, figures, overview), histogram(neuron)),
    await nearest(neuron, overview),
    await elsewhere(layer, unit, overview)].filter(Boolean));
  document.title = `${captionText(row.caption)} – ${layer.name} / ${unit}`;
}

function exemplarFigure(neuron, rank, overview) {
  const name = neuron.images[rank];
  const photograph = overview.pictures ? neuron.photographs[rank] : null;
  return h("figure", {}, exemplar(photograph, neuron.regions[rank] || "", name, overview),
    h("figcaption", {}, h("b", {}, short(neuron.activations[rank])), " ", h("span", {title: name}, name)));
}

function captionTable(neuron) {
  if (!neuron.beams.length) return null;
  const supported = neuron.beams.some((beam) => beam[4] != null);
  const columns = ["Caption", "Score", "log p(c|E)", "log p(c)", supported && "Support"].filter(Boolean);
  const rows = neuron.beams.map((beam) => beam.slice(0, columns.length)).map(([caption, ...scores]) =>
    h("tr", {}, h("th", {scope: "row", class: "caption"}, captionText(caption)), scores.map((score) => h("td", {class: "count"}, number(score)))));
  return h("section", {}, h("h2", {}, "Captions weighed"), h("div", {class: "wide"}, h("table", {},
    h("thead", {}, h("tr", {}, columns.map((name) => h("th", {scope: "col"}, name)))),
    h("tbody", {}, rows))));
}

/** Each word's share of attention over the exemplars; a word that is pointed at dims the exemplars it passed over. */
function attentionTable(neuron, figures) {
  if (!neuron.attention) return null;
  const show = (weights) => {
    const top = Math.max(...weights, 1);
    figures.forEach((figure, rank) => figure.style.setProperty("opacity", 0.25 + (0.75 * weights[rank]) / top));
  };
  const clear = () => figures.forEach((figure) => figure.style.removeProperty("opacity"));
  const rows = neuron.attention.map((weights, index) => {
    const top = Math.max(...weights, 1);
    return h("tr", {onmouseenter: () => show(weights), onmouseleave: clear},
      h("th", {scope: "row"}, h("button", {type: "button", onfocus: () => show(weights), onblur: clear}, neuron.words[index])),
      weights.map((weight) => h("td", {class: "heat", style: {"--heat": weight / top}, title: `${weight} %`}, String(weight))));
  });
  const ranks = neuron.images.map((_, rank) => h("th", {scope: "col"}, String(rank + 1)));
  return h("section", {}, h("h2", {}, "Attention"),
    h("p", {class: "quiet"}, "How much of each word was read from each exemplar, in percent. Point at a word to see it above."),
    h("div", {class: "wide"}, h("table", {class: "attention"},
      h("thead", {}, h("tr", {}, h("th", {scope: "col"}, "Word"), ranks)), h("tbody", {}, rows))));
}

function histogram(neuron) {
  if (!neuron.histogram) return null;
  const {edges, counts} = neuron.histogram;
  const total = counts.reduce((sum, count) => sum + count, 0);
  const logs = counts.map((count) => (count ? Math.log10(count) + 1 : 0));
  const tip = (index) => `${counted(counts[index], "position")} between ${short(edges[index])} and ${short(edges[index + 1])}`;
  const above = edges.findIndex((edge) => edge > neuron.threshold);
  const label = `Activations above zero, ${counted(total, "position")} from ${short(edges[0])} to ${short(edges.at(-1))}`;
  return h("section", {}, h("h2", {}, "Activations"),
    h("figure", {class: "histogram"}, bars(logs, {label, tip, width: 320, height: 90, mark: above < 0 ? null : above}),
      h("figcaption", {}, h("span", {}, short(edges[0])), h("b", {}, `threshold ${short(neuron.threshold)}`), h("span", {}, short(edges.at(-1))))),
    h("p", {class: "quiet"}, `Positions of images by activation, both on logarithmic scales. Active at ${short(100 * neuron.active)} % of all positions.`));
}

/** Small cards of other neurons, each with a remark. */
async function strip(title, explained, neurons, overview) {
  if (!neurons.length) return null;
  await Promise.all(neurons.map(({layer, unit}) => load(partKey(layer.source, placeOf(layer, unit, overview).part))));
  const several = overview.sources.length > 1;
  return h("section", {}, h("h2", {}, title), h("p", {class: "quiet"}, explained), h("ul", {class: "strip"},
    neurons.map(({layer, unit, remark}) => {
      const row = rowOf(layer, unit, overview);
      const name = `${several ? `${layer.source.name} / ` : ""}${layer.name} / ${unit}`;
      return h("li", {}, h("a", {href: neuronAddress(layer, unit)},
        row.caption === null ? h("div", {class: "block dead"}, "dead") : block(layer, unit, overview, `The strongest images of ${name}`),
        h("span", {class: "caption"}, captionText(row.caption))),
        h("small", {}, h("span", {class: "name"}, name), ` ${remark}`));
    })));
}

function nearest(neuron, overview) {
  const neurons = neuron.nearest.map(([source, layer, unit, cosine]) =>
    ({layer: overview.sources[source].layers[layer], unit, remark: `· ${number(cosine)}`}));
  return strip("Neurons most like it", "By the features of their exemplars; 1 is the same direction.", neurons, overview);
}

/** The same unit in the other sources: side by side. */
function elsewhere(layer, unit, overview) {
  const neurons = overview.sources.filter((source) => source !== layer.source)
    .map((source) => layerNamed(source, layer.name))
    .filter((other) => other && hasUnit(other, unit))
    .map((other) => ({layer: other, unit, remark: ""}));
  return strip("The same unit elsewhere", "In the other runs of this report.", neurons, overview);
}

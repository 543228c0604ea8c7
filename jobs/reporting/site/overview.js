"use strict";
// The first page: what was labelled, and how the labels are distributed, source by source.

function showOverview(main, overview) {
  main.replaceChildren(...[
    h("h1", {}, overview.title),
    h("p", {class: "lead"}, "What every neuron looks for, in words. Search above, open a layer, or follow a word."),
    overview.sources.length > 1 && h("p", {}, h("a", {href: "#/beside"}, "The runs side by side, neuron by neuron →")),
    meaning((name) => overview.sources.some((source) => source[name])),
    h("div", {class: "sources"}, overview.sources.map(sourceSection))].filter(Boolean));
  document.title = overview.title;
}

/** What the numbers mean, for who sees them the first time. */
function meaning(has) {
  const said = [
    ["Score", "How much more likely the caption is for this neuron's images than by itself, per word, as a logarithm; " +
      "and, if the captioner can tell, how well these images bear it out. It ranks what could be said of one neuron."],
    has("support") && ["Support", "Of which share of the neuron's images the caption is true, as the captioner reckons. " +
      "What is true of about half of them begins with \"often\". Of the captioner that comes with the project, people find " +
      "hardly any below .4 right, and most from .6 on."],
    has("trust") && ["Trust", "How well the caption alone foretells, on images that it was not made from, which of them drive the " +
      "neuron: a correlation, 1 at best, about 0 for a caption that says nothing of the neuron."],
    ["Peak", "The activation of the strongest of the images."],
    ["Dead", "Active on no image, and so without a caption."],
  ].filter(Boolean);
  return h("details", {class: "meaning"}, h("summary", {}, "What the numbers mean"),
    h("dl", {}, said.flatMap(([name, text]) => [h("dt", {}, name), h("dd", {}, text)])));
}

function sourceSection(source) {
  const facts = [
    ["Neurons", source.neurons.toLocaleString("en")],
    ["Different captions", source.distinct.toLocaleString("en")],
    ["Dead", source.dead.toLocaleString("en")],
    ["Images", source.images.toLocaleString("en")],
    ["Images dropped", source.dropped.count.toLocaleString("en")],
  ];
  return h("section", {class: "source"},
    h("h2", {class: "name"}, h("a", {href: address("gallery", {source: source.name})}, source.name)),
    h("div", {class: "summary"},
      h("dl", {class: "facts"}, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
      h("div", {class: "plots"},
        h("div", {}, h("h3", {}, "Score"), distribution(source.score, "Scores")),
        source.support && h("div", {}, h("h3", {}, "Support"), distribution(source.support, "Support")),
        source.trust && h("div", {}, h("h3", {}, "Trust"), distribution(source.trust, "Trust"), beside(source)))),
    h("h3", {}, "Commonest words"),
    chips(source.words, source),
    source.dropped.reasons.length > 0 && h("details", {}, h("summary", {}, "Why images were dropped"),
      h("ul", {}, source.dropped.reasons.map(([reason, count]) => h("li", {}, `${count} × ${reason}`)))),
    layerTable(source),
    h("p", {class: "quiet"}, `Captioner ${source.captioner}, run ${source.run}.`,
      source.notes.map((note) => ` ${note}`)));
}

/** What trust has to beat. */
const beside = (source) => source.shuffled != null &&
  h("p", {class: "quiet"}, `with another neuron's caption: ${number(source.shuffled)}`);

function chips(words, source, layer = null) {
  const link = (word) => address("gallery", {source: source.name, layer: layer ? layer.name : "", q: word});
  return h("ul", {class: "chips"}, words.map(([word, count]) =>
    h("li", {}, h("a", {href: link(word)}, word, " ", h("small", {}, count.toLocaleString("en"))))));
}

function layerTable(source) {
  const columns = ["Layer", "Units", "Dead", "Captions", "Score", source.support && "Support", source.trust && "Trust", "Commonest"].filter(Boolean);
  const rows = source.ordered.map((layer) => h("tr", {},
    h("th", {scope: "row", class: "name"}, h("a", {href: galleryAddress(layer)}, layer.name)),
    h("td", {class: "count"}, layer.units.toLocaleString("en")),
    h("td", {class: "count"}, layer.dead.toLocaleString("en")),
    h("td", {class: "count"}, layer.distinct.toLocaleString("en")),
    h("td", {}, distribution(layer.score, `Scores of ${layer.name}`)),
    source.support && h("td", {}, distribution(layer.support, `Support of ${layer.name}`)),
    source.trust && h("td", {}, distribution(layer.trust, `Trust of ${layer.name}`)),
    h("td", {class: "commonest"},
      layer.captions.slice(0, 3).map(([caption, count]) => h("div", {class: "caption"}, `“${captionText(caption)}” `, h("small", {}, `× ${count}`))),
      chips(layer.words.slice(0, 6), source, layer))));
  return h("div", {class: "wide", tabindex: "0", role: "region", "aria-label": `Layers of ${source.name}`},
    h("table", {}, h("caption", {class: "unseen"}, `Layers of ${source.name}`),
      h("thead", {}, h("tr", {}, columns.map((name) => h("th", {scope: "col"}, name)))), h("tbody", {}, rows)));
}

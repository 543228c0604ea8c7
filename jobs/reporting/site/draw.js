"use strict";
// Elements, plots and pictures. Text from the data only ever becomes text nodes and attribute values.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.entries(value).forEach(([key, each]) => element.style.setProperty(key, each));
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** h("a", {href: "#/"}, "text", otherElement) */
const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

const say = (text) => {
  document.getElementById("said").textContent = text;
};

const counted = (count, thing) => `${count.toLocaleString("en")} ${thing}${count === 1 ? "" : "s"}`;
const number = (value, digits = 2) =>
  value === null || value === undefined ? "–" : value.toFixed(digits).replace(/^-(?=0\.0*$)/, "").replace("-", "−");
/** Activations of any size: three digits that matter. */
const short = (value) => (value === null || value === undefined ? "–" : String(Number(value.toPrecision(3))).replace("-", "−"));

/** A caption as people see it: also where there is none, or nothing in it. */
const captionText = (caption) => (caption === null ? "active on no image" : caption.trim() || "(says nothing)");

// --- plots --------------------------------------------------------------------------------------------------------

/** Bars of counts; each says on hovering what it counts. */
function bars(counts, {label, tip, width = 160, height = 36, mark = null}) {
  const top = Math.max(1, ...counts);
  const step = width / counts.length;
  const drawn = counts.map((count, index) => {
    const high = count ? Math.max(1, (height - 1) * (count / top)) : 0;
    return svg("rect", {x: index * step, y: height - high, width: Math.max(0.5, step - 0.6), height: high},
      svg("title", {}, tip(index)));
  });
  const line = mark === null ? null : svg("line", {class: "mark", x1: mark * step, x2: mark * step, y1: 0, y2: height});
  return svg("svg", {class: "bars", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label,
    preserveAspectRatio: "none"}, drawn, line);
}

/** A distribution over equal steps between two ends, with its ends and median written below. */
function distribution(plot, what) {
  if (!plot) return h("span", {class: "quiet"}, "–");
  const step = (plot.high - plot.low) / plot.counts.length;
  const tip = (index) => `${plot.counts[index]} between ${number(plot.low + index * step)} and ${number(plot.low + (index + 1) * step)}`;
  const label = `${what} from ${number(plot.low)} to ${number(plot.high)}, median ${number(plot.median)}`;
  const mark = (plot.median - plot.low) / step;
  return h("figure", {class: "distribution"}, bars(plot.counts, {label, tip, mark}),
    h("figcaption", {}, h("span", {}, number(plot.low)), h("b", {}, number(plot.median)), h("span", {}, number(plot.high))));
}

// --- pictures -----------------------------------------------------------------------------------------------------

const share = (index, count) => `${count > 1 ? (100 * index) / (count - 1) : 0}%`;

/** One cell of a sheet of pictures, as the background of an element. */
function fromSheet(element, url, place, columns, rows) {
  element.style.backgroundImage = `url("${url}")`;
  element.style.backgroundSize = `${100 * columns}% ${100 * rows}%`;
  element.style.backgroundPosition = `${share(place % columns, columns)} ${share(Math.floor(place / columns), rows)}`;
  return element;
}

/** A neuron's strongest exemplars in one square, their regions already outlined. */
function block(layer, unit, overview, label) {
  const {part, group, slot} = placeOf(layer, unit, overview);
  const element = h("div", {class: "block", role: "img", "aria-label": label});
  const {columns, rows} = overview.blocks;
  return fromSheet(element, `data/${groupKey(layer.source, part, group)}.webp`, slot, columns, rows);
}

/** The outline of a region, from its corners: "x y right down left …" for each closed line, as numbers of cells. */
function outline(text) {
  return text.split(";").filter(Boolean).map((loop) => {
    const [x, y, ...runs] = loop.split(" ").map(Number);
    const corners = [[x, y]];
    runs.forEach((run, index) => {
      const [a, b] = corners.at(-1);
      corners.push(index % 2 ? [a, b + run] : [a + run, b]);
    });
    corners.pop(); // where it began
    return rounded(corners);
  }).join("");
}

/** A path that cuts each corner half a cell before it: stairs become slopes. */
function rounded(corners) {
  const towards = ([a, b], [c, d]) => {
    const length = Math.abs(c - a) + Math.abs(d - b);
    const step = Math.min(0.5, length / 2) / length;
    return `${a + (c - a) * step} ${b + (d - b) * step}`;
  };
  const parts = corners.map((corner, index) => {
    const before = corners.at(index - 1);
    const after = corners[(index + 1) % corners.length];
    return `${index ? "L" : "M"}${towards(corner, before)}Q${corner[0]} ${corner[1]} ${towards(corner, after)}`;
  });
  return `${parts.join("")}Z`;
}

let clips = 0;

/** One exemplar at full size: the photograph, faded outside the region, which is outlined. */
function exemplar(photograph, region, name, overview) {
  const side = overview.region_side;
  const element = h("div", {class: "photograph", role: "img", "aria-label": name});
  if (!photograph) return fill(element, {class: "photograph gone"}, ["cannot be read any more"]);
  const [folder, sheet, slot] = photograph;
  fromSheet(element, `photographs/${folder}/${padded(sheet, 5)}.webp`, slot, overview.sheet, overview.sheet);
  const path = outline(region);
  if (path) {
    const rest = `M0 0H${side}V${side}H0Z${path}`;
    const id = `rest-${clips++}`; // the edge lies around the region: within it, it would hide a thin one
    element.append(svg("svg", {class: "region", viewBox: `0 0 ${side} ${side}`, "aria-hidden": "true"},
      svg("clipPath", {id}, svg("path", {d: rest, "clip-rule": "evenodd"})),
      svg("path", {class: "faded", d: rest, "fill-rule": "evenodd"}),
      svg("path", {class: "edge", d: path, "clip-path": `url(#${id})`})));
  }
  return element;
}

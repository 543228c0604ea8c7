"use strict";
// A list of very many cards, of which only those on the screen are drawn; and how it is loaded and walked through.

const MOST_PIXELS = 15e6; // a browser's page cannot be much higher; a longer list is cut, and says so
const WAIT_MS = 120; // between two typed letters or two loaded parts, before the list is made anew
const GAP = 14;

class List {
  /**
   * measure(width) → {columns, height, shape}: cards in a row, the height of one that is so wide, and its class.
   * make(place) → the card of that place; null where there is none.
   */
  constructor(label, measure, make) {
    this.element = h("div", {class: "list", role: "list", "aria-label": label, onkeydown: (event) => this.move(event)});
    Object.assign(this, {measure, make, cards: new Map(), count: 0, shown: 0});
    this.onscroll = () => requestAnimationFrame(() => this.draw());
    addEventListener("scroll", this.onscroll, {passive: true});
    addEventListener("resize", this.onscroll);
  }

  close() {
    removeEventListener("scroll", this.onscroll);
    removeEventListener("resize", this.onscroll);
  }

  /** Shows so many cards, all made anew; how many of them fit. */
  show(count) {
    for (const card of this.cards.values()) card?.remove();
    this.cards.clear();
    this.count = count;
    this.draw();
    return this.shown;
  }

  measured() {
    const whole = this.element.clientWidth;
    const {columns, height, shape} = this.measure(whole);
    const width = Math.floor((whole - GAP * (columns - 1)) / columns);
    return {columns, width, height: height(width) + GAP, shape: shape(width)};
  }

  /** Puts the cards on the screen that belong there, and takes the others away. */
  draw() {
    if (!this.element.isConnected) return;
    const {columns, width, height, shape} = this.measured();
    this.shown = Math.min(this.count, Math.floor(MOST_PIXELS / height) * columns);
    this.element.style.height = `${Math.ceil(this.shown / columns) * height}px`;
    const above = -this.element.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(above / height) - 1) * columns;
    const end = Math.min(this.shown, (Math.ceil((above + innerHeight) / height) + 1) * columns);
    for (const [place, card] of this.cards) {
      if (place < first || place >= end || (card && card.width !== width)) {
        card?.remove();
        this.cards.delete(place);
      }
    }
    for (let place = first; place < end; place++) {
      if (!this.cards.has(place)) this.cards.set(place, this.put(place, columns, width, height, shape));
    }
  }

  put(place, columns, width, height, shape) {
    const card = this.make(place);
    if (!card) return null;
    card.width = width;
    Object.assign(card.style, {width: `${width}px`, height: `${height - GAP}px`, left: `${(place % columns) * (width + GAP)}px`,
      top: `${Math.floor(place / columns) * height}px`});
    if (shape) card.classList.add(shape);
    card.setAttribute("aria-setsize", this.shown);
    card.setAttribute("aria-posinset", place + 1);
    card.dataset.place = place;
    // In the order of the list, so that Tab goes from each to the next.
    const after = [...this.element.children].find((other) => Number(other.dataset.place) > place);
    this.element.insertBefore(card, after || null);
    return card;
  }

  /** Arrow keys go from card to card, also to those that are not drawn yet. */
  move(event) {
    const {columns, height} = this.measured();
    const step = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns}[event.key];
    const at = event.target.closest("[data-place]");
    if (!step || !at) return;
    const place = Number(at.dataset.place) + step;
    if (place < 0 || place >= this.shown) return;
    event.preventDefault();
    const top = this.element.getBoundingClientRect().top + scrollY + Math.floor(place / columns) * height;
    const covered = covers();
    if (top < scrollY + covered) scrollTo({top: top - covered, behavior: "instant"});
    else if (top + height > scrollY + innerHeight) scrollTo({top: top + height - innerHeight, behavior: "instant"});
    this.draw();
    this.cards.get(place)?.querySelector("a").focus({preventScroll: true});
  }
}

/** A page with a list of neurons: what stands above it, and how its address and the list follow what is chosen. */
class ListPage {
  constructor(page, list, everything) {
    Object.assign(this, {page, list, count: h("p", {class: "note"}, "Loading…"), nothing: nothingFound(address(page, everything))});
  }

  /** Lets go of the window's events. */
  close() {
    this.list.close();
    this.closed = true;
  }

  /** Another choice on this page: the address follows, and the list. */
  change(options) {
    Object.assign(this.options, options);
    replaceAddress(address(this.page, this.options));
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.find(), WAIT_MS);
  }

  leave(options) {
    location.hash = address(this.page, options);
  }

  filters(...choices) {
    return h("form", {class: "filters", "aria-label": "Filters", onsubmit: (event) => event.preventDefault()}, ...choices);
  }

  /** Says how many of all neurons were found and are shown, as far as the parts are loaded. */
  tell(found, all, shown, loaded, more = "") {
    this.count.textContent = countText(found, all, shown, loaded, this.parts.length) + more;
    this.nothing.hidden = found > 0 || loaded < this.parts.length;
    if (loaded === this.parts.length) say(counted(found, "neuron"));
  }
}

/** How much of the window's top is covered by what stays there. */
const covers = () => [...document.querySelectorAll(".bar, .heads")].reduce((sum, each) => sum + each.offsetHeight, 8);

/** Loads every part; `grown` is called now and then meanwhile, and at the end, with how many are there. */
async function loadParts(parts, grown) {
  let last = performance.now();
  let count = 0;
  await Promise.all(parts.map(async (part) => {
    part.table = await load(partKey(part.layer.source, part.number));
    count += 1;
    if (performance.now() - last > WAIT_MS) {
      grown(count);
      last = performance.now();
    }
  }));
  grown(count);
}

/** "12 of 1,784 neurons.", and what a reader should know of the list. */
function countText(found, all, shown, loaded, parts) {
  const cut = shown < found ? ` The first ${shown.toLocaleString("en")} are listed: narrow the search.` : "";
  const loading = loaded < parts ? ` Loading ${loaded} of ${parts} files…` : "";
  return `${found.toLocaleString("en")} of ${counted(all, "neuron")}.${cut}${loading}`;
}

/** What stands where nothing is found, and the way out. */
function nothingFound(href) {
  return h("p", {class: "nothing", hidden: ""}, h("b", {}, "No neuron fits."),
    "Captions are searched for all of the words, also for parts of them. ", h("a", {href}, "Show every neuron"));
}

// --- choices that a page offers -----------------------------------------------------------------------------------

function choice(label, entries, chosen, onchange) {
  const select = h("select", {"aria-label": label, onchange: (event) => onchange(event.target.value)},
    entries.map(([value, text]) => h("option", {value, selected: value === (chosen || "") && ""}, text)));
  return h("label", {}, h("span", {}, label), select);
}

function tick(label, checked, onchange) {
  return h("label", {class: "check"}, h("input", {type: "checkbox", "aria-label": label, checked: checked && "",
    onchange: (event) => onchange(event.target.checked)}), label);
}

"use strict";
// Which page the address asks for, and the keys that work everywhere.

const main = document.getElementById("main");
const box = document.getElementById("search");
const scrolled = new Map();
let overview = null;
let gallery = null;
let shown = null;
let typing = 0;

/** Changes the address without a new entry in the browser's history, and without drawing the page anew. */
function replaceAddress(hash) {
  shown = hash;
  location.replace(hash);
}

async function show() {
  if (location.hash === shown) return;
  if (shown !== null) scrolled.set(shown, scrollY);
  const before = shown;
  shown = location.hash;
  gallery?.close();
  gallery = null;
  const {page, options} = readAddress();
  for (const link of document.querySelectorAll("[data-page]")) {
    if (link.dataset.page === page) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (document.activeElement !== box) box.value = options.q || "";
  try {
    if (page === "gallery") {
      gallery = new Gallery(main, overview, options);
      await gallery.ready;
    } else if (page === "beside") {
      gallery = new Beside(main, overview, options);
      await gallery.ready;
    } else if (page === "neuron") {
      await showNeuron(main, overview, options);
    } else {
      showOverview(main, overview);
    }
  } catch (error) {
    main.replaceChildren(h("p", {class: "note", role: "alert"}, error.message));
  }
  scrollTo({top: scrolled.get(location.hash) || 0, behavior: "instant"});
  if (before !== null && document.activeElement !== box) main.focus({preventScroll: true});
  if (!gallery) say(document.title);
}

/** Searching stays in the gallery that is open, or opens that of all layers. */
function searched() {
  if (gallery) gallery.change({q: box.value});
  else location.hash = address("gallery", {source: readAddress().options.source || "", q: box.value});
}

box.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(searched, gallery ? 0 : WAIT_MS);
});
box.form.addEventListener("submit", (event) => {
  event.preventDefault();
  document.querySelector(".card a")?.focus();
});

addEventListener("keydown", (event) => {
  const writes = event.target.matches("input[type=search], select");
  if (event.ctrlKey || event.metaKey || event.altKey || (writes && event.key !== "Escape")) return;
  if (event.key === "/") {
    event.preventDefault();
    box.focus();
    box.select();
  } else if (event.key === "Escape") {
    if (writes) event.target.blur();
    else if (readAddress().page === "neuron") history.back();
  } else if (event.key === "j" || event.key === "k") {
    document.querySelector(event.key === "j" ? "[rel=next]" : "[rel=prev]")?.click();
  }
});

addEventListener("hashchange", show);
history.scrollRestoration = "manual";
loadOverview().then((found) => {
  overview = found;
  document.querySelector("[data-page=beside]").hidden = overview.sources.length < 2;
  return show();
}).catch((error) => main.replaceChildren(h("p", {class: "note", role: "alert"}, error.message)));

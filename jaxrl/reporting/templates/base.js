// Shared functions: DOM elements, number formats, the theme, and decompression of the embedded data.
// Text of the model is only set through textContent, so that it is never parsed as HTML.
const byId = (id) => document.getElementById(id);
const root = document.documentElement;

function configure(node, options, children) {
  for (const [name, value] of Object.entries(options || {})) {
    if (name === "text") node.textContent = value;
    else if (name === "on") Object.entries(value).forEach(([event, act]) => node.addEventListener(event, act));
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const make = (tag, options, ...children) => configure(document.createElement(tag), options, children);
const makeSvg = (tag, options, ...children) => configure(document.createElementNS("http://www.w3.org/2000/svg", tag), options, children);

// A cell is a string or a DOM element.
function table(heads, lines, numbersFrom) {
  const cell = (tag, content, column) => {
    const options = column >= numbersFrom ? { class: "number" } : {};
    return content instanceof Element ? make(tag, options, content) : make(tag, { ...options, text: content });
  };
  const head = make("tr", {}, ...heads.map((text, column) => cell("th", text, column)));
  const body = lines.map((cells) => make("tr", {}, ...cells.map((content, column) => cell("td", content, column))));
  return make("div", { class: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}

const plain = (name) => String(name).replaceAll("_", " ");
const percent = (value) => (100 * value).toFixed(1) + "%";
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);

// Fills a <details> element when it is first opened.
function lazily(node, fill) {
  node.addEventListener("toggle", () => { if (node.open && !node.dataset.filled) { node.dataset.filled = "1"; fill(); } });
  return node;
}

// Decodes an embedded text (gzip in base64).
async function unpack(id) {
  const text = byId(id).textContent;
  // Uint8Array.fromBase64 is fast, but missing in browsers before autumn 2025.
  const bytes = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

const themeListeners = [];
function startTheme() {
  const darkSystem = matchMedia("(prefers-color-scheme: dark)");
  let chosen = "";
  const set = () => {
    root.dataset.theme = chosen || (darkSystem.matches ? "dark" : "light");
    themeListeners.forEach((listen) => listen());
  };
  set();
  darkSystem.addEventListener("change", set);
  byId("theme").addEventListener("click", () => { chosen = root.dataset.theme === "dark" ? "light" : "dark"; set(); });
}

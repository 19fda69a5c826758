// What every part of the page needs: elements, numbers, the theme, and what is packed into the page.
// Text of the model is only ever set through textContent, so that it can be nothing but text.
const byId = (id) => document.getElementById(id);
const root = document.documentElement;

function dress(node, options, children) {
  for (const [name, value] of Object.entries(options || {})) {
    if (name === "text") node.textContent = value;
    else if (name === "on") Object.entries(value).forEach(([event, act]) => node.addEventListener(event, act));
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const make = (tag, options, ...children) => dress(document.createElement(tag), options, children);
const draw = (tag, options, ...children) => dress(document.createElementNS("http://www.w3.org/2000/svg", tag), options, children);

// A cell is a text, or an element that is put in as it is.
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

// An element is filled when it is first opened.
function lazily(node, fill) {
  node.addEventListener("toggle", () => { if (node.open && !node.dataset.filled) { node.dataset.filled = "1"; fill(); } });
  return node;
}

// What is packed into the page stands there as gzip in base64.
async function unpack(id) {
  const text = byId(id).textContent;
  // Browsers before autumn 2025 lack the fast way.
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

// Curves and bars, rendered by plotly when they are scrolled near the viewport.
const LIGHT = ["#2a64c8", "#c2382b", "#187a4b", "#b35c00", "#7b45b5", "#0a7f94", "#a8327d", "#6b7280", "#6d6a12", "#1f4b99"];
const DARK = ["#7fb0ff", "#f3766a", "#4fc58b", "#f0a04b", "#bd92ef", "#4cc3d9", "#ec86c6", "#a3abb8", "#cfc94f", "#9fc2ff"];
// Verdicts have the same colours in plots and texts.
const FIXED = { correct: 2, wrong_answer: 3, wrong: 3, unparseable: 4, bad_format: 1, truncated: 7 };
const DASHES = ["solid", "dot", "dash", "dashdot"];
const plots = [];
let plotly = null; // the library, loaded on first use

const palette = () => (root.dataset.theme === "dark" ? DARK : LIGHT);
const isShare = (unit) => unit.startsWith("share");
// Plotly interprets some HTML tags in labels, and the names come from configs.
const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;");

function smooth(values, window) {
  const half = Math.floor(window / 2);
  return values.map((_, i) => {
    const span = values.slice(Math.max(0, i - half), i + half + 1);
    return span.reduce((a, b) => a + b, 0) / span.length;
  });
}

const lineOf = (order, colours) => ({ color: colours[order % colours.length], dash: DASHES[Math.floor(order / colours.length) % DASHES.length] });

// The points at which a run has values of a metric.
function points(run, name) {
  const kept = run.series[name].map((value, i) => [run.steps[i], value]).filter((pair) => pair[1] !== null);
  return { x: kept.map((pair) => pair[0]), y: kept.map((pair) => pair[1]) };
}

// One curve of a run: single steps as a thin line, the moving average as a thick one.
function curve(run, name, label, line, width) {
  const { x, y } = points(run, name);
  const base = { x, name: escaped(label), legendgroup: escaped(label) };
  const window = y.length >= 20 ? Math.max(3, Math.round(y.length / 20)) : 1;
  const thick = { ...base, y: smooth(y, window), mode: y.length > 2 ? "lines" : "lines+markers", line: { ...line, width }, marker: { color: line.color } };
  const thin = { ...base, y, mode: "lines", line: { ...line, width: 1 }, opacity: 0.3, hoverinfo: "skip", showlegend: false };
  return window > 1 ? [thin, thick] : [thick];
}

// The curves of one run.
function traces(run, panel, colours) {
  const places = panel.series.map(({ name }) => name);
  return panel.series.flatMap(({ name, label, hidden }, index) => {
    if (!run.series[name]) return [];
    // A sound share has the colour of the accuracy that it is part of, and is dashed.
    const whole = [name.replace(/\/sound$/, "/correct"), name.replace(/\/sound$/, "/accuracy")].find((one) => places.includes(one)) || name;
    const colour = colours[FIXED[whole.split("/").at(-1)] ?? places.indexOf(whole) % colours.length];
    const visible = hidden ? "legendonly" : true, dash = whole === name ? "solid" : "dash";
    if (!panel.stacked) return curve(run, name, label, { color: colour, dash }, 2.2).map((trace) => ({ ...trace, visible }));
    const line = { ...points(run, name), name: escaped(label), mode: "lines", visible };
    if (name === "share/truncated") return [{ ...line, line: { color: colour, width: 2, dash: "dot" } }];
    return [{ ...line, stackgroup: "one", line: { color: colour, width: 0.5 }, fillcolor: colour + "bb" }];
  });
}

// One curve of several runs, in the colours of the table of runs.
function overlay(runs, name, colours) {
  return runs.flatMap((run, order) => (run.series[name] ? curve(run, name, run.name, lineOf(order, colours), 1.8) : []));
}

function layout(unit, bands) {
  const style = getComputedStyle(root);
  const [ink, soft, line, card] = ["--ink", "--soft", "--line", "--card"].map((name) => style.getPropertyValue(name).trim());
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, tickfont: { color: soft }, automargin: true };
  const shares = isShare(unit) ? { tickformat: ".0%", hoverformat: ".1%" } : { hoverformat: ".4~g" };
  return {
    margin: { l: 44, r: 10, t: 22, b: 26 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink, size: 12, family: "system-ui, sans-serif" },
    hovermode: "x unified", hoverlabel: { bgcolor: card, bordercolor: line, font: { color: ink } },
    legend: { orientation: "h", y: -0.13, yanchor: "top", x: 0, font: { size: 11, color: soft } }, showlegend: true,
    xaxis: { ...axis, showgrid: false, hoverformat: "d", unifiedhovertitle: { text: "step %{x}" } },
    yaxis: { ...axis, ...shares, rangemode: isShare(unit) ? "tozero" : "normal" },
    shapes: bands.filter((_, i) => i % 2 === 0).map((band) => ({
      type: "rect", xref: "x", yref: "paper", x0: band[1] - 0.5, x1: band[2] + 0.5, y0: 0, y1: 1, fillcolor: soft, opacity: 0.09, line: { width: 0 }, layer: "below",
    })),
    annotations: bands.map((band) => ({
      text: escaped(band[0]), x: (band[1] + band[2]) / 2, y: 1, xref: "x", yref: "paper", yanchor: "bottom", showarrow: false, font: { size: 11, color: soft },
    })),
  };
}

async function paint(plot) {
  plotly ||= unpack("plotly").then((code) => document.head.append(make("script", { text: code })));
  await plotly;
  const [lines, look] = plot.build(palette());
  await Plotly.react(plot.node, lines, look, { responsive: true, displaylogo: false, displayModeBar: false });
  plot.node.dataset.painted = root.dataset.theme;
}

const watcher = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
  watcher.unobserve(entry.target);
  plots.push(entry.target.plot);
  paint(entry.target.plot);
}), { rootMargin: "300px" });

// build(colours) returns [traces, layout].
function addPlot(node, build) {
  node.plot = { node, build };
  watcher.observe(node);
}

function panel(title, unit, build, ...controls) {
  const node = make("div", { class: "plot" });
  addPlot(node, build);
  return make("div", { class: "panel" }, make("h3", {}, title, make("span", { text: unit }), ...controls), node);
}

function runPanel(data, one) {
  return panel(one.title, one.unit, (colours) => {
    const look = layout(one.unit, data.runs[0].bands);
    if (one.stacked) look.yaxis.range = [0, 1];
    return [traces(data.runs[0], one, colours), look];
  });
}

// With several runs, a panel shows one metric at a time, selected in its header.
function overlayPanel(data, one) {
  const choice = make("select", { "aria-label": `curve of ${one.title}` }, ...one.series.map(({ name, label }) => make("option", { value: name, text: label })));
  choice.value = (one.series.find(({ hidden }) => !hidden) || one.series[0]).name;
  const node = panel(one.title, one.unit, (colours) => {
    const look = layout(one.unit, data.runs[0].bands);
    look.showlegend = false;
    return [overlay(data.runs, choice.value, colours), look];
  }, choice);
  choice.addEventListener("input", () => paint(node.querySelector(".plot").plot));
  return node;
}

function showCurves(data) {
  const sections = document.querySelectorAll(".panels");
  for (const one of data.panels) sections[one.section].append((data.runs.length > 1 ? overlayPanel : runPanel)(data, one));
  byId("curves").hidden = !byId("curves").querySelector(".panel");
  byId("curves").querySelectorAll("details").forEach((node) => { node.hidden = !node.querySelector(".panel"); });
}

// A small line plot without axes.
function sparkline(values, colour) {
  const known = values.filter((value) => value !== null);
  if (known.length < 2) return "";
  const low = Math.min(...known), span = Math.max(...known) - low || 1;
  const points = known.map((value, i) => `${(100 * i) / (known.length - 1)},${28 - (26 * (value - low)) / span - 1}`);
  return makeSvg("svg", { class: "spark", viewBox: "0 0 100 28", preserveAspectRatio: "none", "aria-hidden": "true" },
    makeSvg("polyline", { points: points.join(" "), fill: "none", stroke: colour, "stroke-width": 2, "vector-effect": "non-scaling-stroke" }));
}

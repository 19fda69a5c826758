// Curves and bars, drawn by plotly when they come near the window.
const LIGHT = ["#2a64c8", "#c2382b", "#187a4b", "#b35c00", "#7b45b5", "#0a7f94", "#a8327d", "#6b7280", "#6d6a12", "#1f4b99"];
const DARK = ["#7fb0ff", "#f3766a", "#4fc58b", "#f0a04b", "#bd92ef", "#4cc3d9", "#ec86c6", "#a3abb8", "#cfc94f", "#9fc2ff"];
// Verdicts have the same colour in every curve and text.
const FIXED = { correct: 2, wrong_answer: 3, wrong: 3, unparseable: 4, bad_format: 1, cut_off: 7 };
const DASHES = ["solid", "dot", "dash", "dashdot"];
const plots = [];
let plotly = null; // the library, once it is asked for

const palette = () => (root.dataset.theme === "dark" ? DARK : LIGHT);
const isShare = (unit) => unit.startsWith("share");
// Plotly reads a few tags in its labels; names come from a config, so they are made plain.
const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;");

function smooth(values, window) {
  const half = Math.floor(window / 2);
  return values.map((_, i) => {
    const span = values.slice(Math.max(0, i - half), i + half + 1);
    return span.reduce((a, b) => a + b, 0) / span.length;
  });
}

// Two runs share the colours and differ in their dashes. Of more, each has a colour of its own, and of a panel only
// the first curve is drawn until others are asked for in its legend.
function traces(data, panel, colours) {
  const many = data.runs.length > 2, found = [];
  data.runs.forEach((run, order) => panel.series.forEach(({ name, label, hidden }, index) => {
    const all = run.series[name];
    if (!all) return;
    const kept = all.map((value, i) => [run.steps[i], value]).filter((pair) => pair[1] !== null);
    const [x, y] = [kept.map((pair) => pair[0]), kept.map((pair) => pair[1])];
    const colour = colours[many ? order % colours.length : FIXED[name.split("/").at(-1)] ?? index % colours.length];
    const shown = data.runs.length > 1 ? (many && panel.series.length === 1 ? run.name : `${label} · ${run.name}`) : label;
    const base = { x, name: escaped(shown), legendgroup: escaped(shown), visible: hidden || (many && index) ? "legendonly" : true };
    if (panel.stacked && data.runs.length === 1 && name !== "share/cut_off") {
      found.push({ ...base, y, mode: "lines", stackgroup: "one", line: { color: colour, width: 0.5 }, fillcolor: colour + "bb" });
      return;
    }
    const window = y.length >= 20 ? Math.max(3, Math.round(y.length / 20)) : 1;
    const line = { color: colour, width: order ? 1.6 : 2.2, dash: panel.stacked && !order ? "dot" : DASHES[(many ? index : order) % DASHES.length] };
    if (window > 1 && order === 0 && !panel.stacked) {
      found.push({ ...base, y, mode: "lines", line: { color: colour, width: 1 }, opacity: 0.3, hoverinfo: "skip", showlegend: false });
    }
    found.push({ ...base, y: panel.stacked ? y : smooth(y, window), mode: y.length > 2 ? "lines" : "lines+markers", line, marker: { color: colour } });
  }));
  return found;
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

// build(colours) gives [traces, layout].
function place(node, build) {
  node.plot = { node, build };
  watcher.observe(node);
}

function panel(title, unit, build) {
  const node = make("div", { class: "plot" });
  place(node, build);
  return make("div", { class: "panel" }, make("h3", {}, title, make("span", { text: unit })), node);
}

function showCurves(data) {
  const bands = data.runs.length ? data.runs[0].bands : [];
  const rooms = document.querySelectorAll(".panels");
  for (const one of data.panels) {
    const look = (colours) => {
      const found = layout(one.unit, bands);
      if (one.stacked && data.runs.length === 1) found.yaxis.range = [0, 1];
      return [traces(data, one, colours), found];
    };
    rooms[one.room].append(panel(one.title, one.unit, look));
  }
  byId("curves").hidden = !byId("curves").querySelector(".panel");
  byId("curves").querySelectorAll("details").forEach((node) => { node.hidden = !node.querySelector(".panel"); });
}

// A line without axes, in the size of a word.
function sparkline(values, colour) {
  const known = values.filter((value) => value !== null);
  if (known.length < 2) return "";
  const low = Math.min(...known), span = Math.max(...known) - low || 1;
  const points = known.map((value, i) => `${(100 * i) / (known.length - 1)},${28 - (26 * (value - low)) / span - 1}`);
  return draw("svg", { class: "spark", viewBox: "0 0 100 28", preserveAspectRatio: "none", "aria-hidden": "true" },
    draw("polyline", { points: points.join(" "), fill: "none", stroke: colour, "stroke-width": 2, "vector-effect": "non-scaling-stroke" }));
}

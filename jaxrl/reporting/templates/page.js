"use strict";
// Text of the model is only ever set through textContent, so that it can be nothing but text.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const PAGE = 20;

  function make(tag, options, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(options || {})) {
      if (name === "text") node.textContent = value;
      else if (name === "on") Object.entries(value).forEach(([event, act]) => node.addEventListener(event, act));
      else node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }

  function table(heads, lines) {
    const head = make("tr", {}, ...heads.map((text) => make("th", { text })));
    const body = lines.map((cells) => make("tr", {}, ...cells.map((text) => make("td", { text }))));
    return make("div", { class: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
  }

  // ---- theme ----
  const root = document.documentElement;
  const darkSystem = matchMedia("(prefers-color-scheme: dark)");
  let chosenTheme = "";
  const setTheme = () => { root.dataset.theme = chosenTheme || (darkSystem.matches ? "dark" : "light"); };
  setTheme();
  darkSystem.addEventListener("change", () => { setTheme(); drawn.forEach(paint); });
  byId("theme").addEventListener("click", () => {
    chosenTheme = root.dataset.theme === "dark" ? "light" : "dark";
    setTheme();
    drawn.forEach(paint);
  });

  // ---- curves ----
  const LIGHT = ["#2a64c8", "#c2382b", "#187a4b", "#b35c00", "#7b45b5", "#0a7f94", "#a8327d", "#6b7280", "#6d6a12", "#1f4b99"];
  const DARK = ["#7fb0ff", "#f3766a", "#4fc58b", "#f0a04b", "#bd92ef", "#4cc3d9", "#ec86c6", "#a3abb8", "#cfc94f", "#9fc2ff"];
  // Verdicts have the same colour in every curve and text.
  const FIXED = { correct: 2, wrong_answer: 3, wrong: 3, unparseable: 4, bad_format: 1, cut_off: 7 };
  const DASHES = ["solid", "dot", "dash", "dashdot"];
  // Two runs share the colours and differ in their dashes. Of more, each has a colour of its own, and of a panel only
  // the first curve is drawn until others are asked for in its legend.
  const MANY = data.runs.length > 2;
  const drawn = [];

  function smooth(values, window) {
    const half = Math.floor(window / 2);
    return values.map((value, i) => {
      if (value === null) return null;
      const span = values.slice(Math.max(0, i - half), i + half + 1).filter((v) => v !== null);
      return span.reduce((a, b) => a + b, 0) / span.length;
    });
  }

  function traces(panel, colours) {
    const found = [];
    data.runs.forEach((run, order) => panel.names.forEach((name, index) => {
      const all = run.series[name];
      if (!all) return;
      const kept = all.map((value, i) => [run.steps[i], value]).filter((pair) => pair[1] !== null);
      const [x, y] = [kept.map((pair) => pair[0]), kept.map((pair) => pair[1])];
      const colour = colours[MANY ? order % colours.length : FIXED[name.split("/").at(-1)] ?? index % colours.length];
      const visible = MANY && index ? "legendonly" : true;
      const label = (panel.names.length > 1 ? name.replace(/^(behaviour|suspects|evaluation|time|speed|length|share|reward)\//, "") : name)
        + (data.runs.length > 1 ? " · " + run.name : "");
      const window = Math.max(1, Math.round(y.length / 20));
      const line = { color: colour, width: order ? 1.5 : 2.2, dash: DASHES[(MANY ? index : order) % DASHES.length] };
      if (window > 2 && order === 0) {
        found.push({ x, y, mode: "lines", line: { color: colour, width: 1 }, opacity: 0.28, hoverinfo: "skip", showlegend: false, legendgroup: label, visible });
      }
      found.push({ x, y: smooth(y, window), name: label, legendgroup: label, mode: y.length > 1 ? "lines" : "markers", line, marker: { color: colour }, visible });
    }));
    return found;
  }

  function layout(unit, bands) {
    const style = getComputedStyle(root);
    const [ink, soft, line] = ["--ink", "--soft", "--line"].map((name) => style.getPropertyValue(name).trim());
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, tickfont: { color: soft }, automargin: true };
    return {
      margin: { l: 48, r: 12, t: 24, b: 30 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, size: 12 }, hovermode: "x unified", hoverlabel: { bgcolor: style.getPropertyValue("--card").trim(), font: { color: ink } },
      legend: { orientation: "h", y: -0.16, font: { size: 11 } }, showlegend: true,
      xaxis: { ...axis }, yaxis: { ...axis, title: { text: unit, font: { size: 11, color: soft } } },
      shapes: bands.filter((_, i) => i % 2 === 0).map((band) => ({
        type: "rect", xref: "x", yref: "paper", x0: band[1] - 0.5, x1: band[2] + 0.5, y0: 0, y1: 1, fillcolor: soft, opacity: 0.1, line: { width: 0 }, layer: "below",
      })),
      annotations: bands.map((band) => ({
        text: escapeForPlotly(band[0]), x: (band[1] + band[2]) / 2, y: 1, xref: "x", yref: "paper", yanchor: "bottom", showarrow: false, font: { size: 11, color: soft },
      })),
    };
  }

  // Plotly reads a few tags in its labels; names come from a config, so they are made plain.
  const escapeForPlotly = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;");

  function paint(plot) {
    const colours = root.dataset.theme === "dark" ? DARK : LIGHT;
    const [lines, look] = plot.build(colours);
    lines.forEach((trace) => { if (trace.name) trace.name = escapeForPlotly(trace.name); });
    Plotly.react(plot.node, lines, look, { responsive: true, displaylogo: false, displayModeBar: false });
  }

  // A plot is drawn when it comes near the window: the page opens at once however many there are.
  const watcher = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
    watcher.unobserve(entry.target);
    drawn.push(entry.target.plot);
    paint(entry.target.plot);
  }), { rootMargin: "400px" });

  function place(node, build) {
    node.plot = { node, build };
    watcher.observe(node);
  }

  data.panels.forEach((panel) => {
    const node = make("div", { class: "plot" });
    document.querySelector(".panels").append(make("div", { class: "panel" }, make("h3", { text: panel.title }), node));
    place(node, (colours) => [traces(panel, colours), layout(panel.unit, data.runs[0].bands)]);
  });

  // ---- head ----
  byId("summary").append(...data.summary.map(([what, value]) => make("div", {}, make("dt", { text: what }), make("dd", { text: value }))));
  if (data.warnings.length) {
    byId("warnings").hidden = false;
    byId("warnings").querySelector("ul").append(...data.warnings.map(([step, text]) => make("li", { text: `step ${step}: ${text}` })));
  }
  byId("config").textContent = JSON.stringify(data.config, null, 2);
  byId("manifest").textContent = JSON.stringify(data.manifest, null, 2);

  // ---- evaluation ----
  function kindChart(colours) {
    const shown = data.evaluations.length > 1 ? [data.evaluations[0], data.evaluations.at(-1)] : data.evaluations;
    const found = [];
    ["sampled", "greedy"].forEach((mode) => shown.forEach((result) => {
      const rows = result.rows.filter((row) => row.mode === mode && row.accuracy[0] !== null);
      if (!rows.length) return;
      const values = rows.map((row) => row.accuracy);
      found.push({
        type: "bar", name: `${result.name}, ${mode}`, x: rows.map((row) => row.kind), y: values.map((v) => v[0]),
        marker: { color: colours[result === shown.at(-1) ? 0 : 7], opacity: mode === "greedy" ? 0.55 : 1 },
        error_y: { type: "data", symmetric: false, array: values.map((v) => v[2] - v[0]), arrayminus: values.map((v) => v[0] - v[1]), thickness: 1.2 },
      });
    }));
    const rows = shown.at(-1).rows.filter((row, i, all) => all.findIndex((other) => other.kind === row.kind) === i);
    found.push({
      name: "the answer that looks at nothing", mode: "markers", x: rows.map((row) => row.kind),
      y: rows.map((row) => row.floor), marker: { symbol: "line-ew", size: 26, line: { width: 2, color: colours[1] }, color: colours[1] },
    });
    const look = layout("accuracy", []);
    look.yaxis.range = [0, 1];
    look.hovermode = "closest";
    return [found, look];
  }

  if (!data.evaluations.length) {
    byId("evaluation").append(make("p", { class: "note", text: "No evaluation is stored in this run." }));
  } else {
    const node = make("div", { class: "plot" });
    byId("kind-chart").append(make("div", { class: "panel" }, make("h3", { text: "Accuracy by kind of problem, with 95 % intervals" }), node));
    place(node, kindChart);
    const comparison = data.comparison;
    if (comparison) {
      byId("comparison").append(
        make("h3", { text: "Difference on the same problems (in points, 95 % interval)" }),
        table(["kind", "mode", comparison.before, comparison.after, "difference", "better / worse", "among well-formed", "bad format", "tokens"], comparison.lines));
    }
    const heads = ["kind", "mode", "problems x each", "accuracy", "among well-formed", "bad format", "cut off", "tokens", "floor", "pass@k", "ways of answering"];
    data.evaluations.forEach((result) => byId("tables").append(
      make("h3", { text: `${result.name} · step ${result.step} · ${result.model} · rule ${result.rule}` }),
      table(heads, result.rows.map((row) => row.cells))));
  }

  // ---- texts ----
  function marked(text, marks) {
    const pre = make("pre");
    const edges = [...new Set([0, text.length, ...marks.flatMap((mark) => [mark[1], mark[2]])])].sort((a, b) => a - b);
    for (let i = 0; i + 1 < edges.length; i += 1) {
      const names = marks.filter((mark) => mark[1] <= edges[i] && mark[2] >= edges[i + 1]).map((mark) => mark[0]);
      const piece = text.slice(edges[i], edges[i + 1]);
      pre.append(names.length ? make("mark", { text: piece, title: [...new Set(names)].join(", ") }) : piece);
    }
    return pre;
  }

  function answer(response, label) {
    const number = (value) => (value >= 0 ? "+" : "") + value.toFixed(2);
    const head = make("div", { class: "head" }, make("b", { class: `verdict ${response.verdict}`, text: (label ? label + ": " : "") + response.verdict.replace("_", " ") }));
    const say = (text) => head.append(make("span", { text }));
    if (response.reward !== undefined) {
      say(`reward ${number(response.reward)} (format ${number(response.format_reward)}, answer ${number(response.answer_reward)})`);
      say(`advantage ${number(response.advantage)}`);
    }
    say(`${response.length} tokens${response.finished ? "" : ", cut off"}`);
    if (response.way) say(response.way);
    const node = make("div", { class: `answer ${response.verdict}` }, head);
    const reasons = [...(response.reasons || []), ...(response.suspects || []).map((name) => `suspect: ${name}`)];
    if (reasons.length) node.append(make("div", { class: "reasons", text: reasons.join("; ") }));
    node.append(marked(response.response, response.marks));
    return node;
  }

  function lazily(node, fill) {
    node.addEventListener("toggle", () => { if (node.open && !node.dataset.filled) { node.dataset.filled = "1"; fill(); } });
    return node;
  }

  const pairs = data.comparison ? data.comparison.pairs : [];
  if (!pairs.length) byId("pair-list").append(make("p", { class: "note", text: "No two evaluations on the same problems are stored in this run." }));
  pairs.forEach((pair) => {
    const change = pair.better ? "newly right" : pair.worse ? "newly wrong" : "same verdict class";
    const node = make("details", { class: "pair" }, make("summary", { text: `${pair.kind} · ${change} · ${pair.question.slice(0, 110)}` }));
    byId("pair-list").append(lazily(node, () => node.append(make("div", { class: "body" },
      make("pre", { text: pair.question }), make("p", { class: "note", text: "Solution: " + pair.solution }),
      make("div", { class: "answers" }, answer(pair.before, data.comparison.before), answer(pair.after, data.comparison.after))))));
  });

  // ---- groups ----
  const form = byId("filters");
  const fields = form.elements;
  let limit = PAGE;
  byId("groups-note").textContent = data.groups_note;

  function options(name, values) {
    fields[name].append(make("option", { value: "", text: "any" }), ...[...new Set(values)].map((value) => make("option", { value, text: String(value).replace("_", " ") })));
  }
  options("step", data.groups.map((group) => group.step));
  options("stage", data.groups.map((group) => group.stage));
  options("kind", data.kinds);
  options("verdict", data.groups.flatMap((group) => group.responses.map((response) => response.verdict)).sort());
  options("behaviour", data.groups.flatMap((group) => group.responses.flatMap((response) => response.marks.map((mark) => mark[0]))).sort());

  const fits = (response) => (!fields.verdict.value || response.verdict === fields.verdict.value)
    && (!fields.behaviour.value || response.marks.some((mark) => mark[0] === fields.behaviour.value));

  function chosen() {
    const words = fields.problem.value.trim().toLowerCase();
    return data.groups.filter((group) => (!fields.step.value || String(group.step) === fields.step.value)
      && (!fields.stage.value || group.stage === fields.stage.value)
      && (!fields.kind.value || group.kind === fields.kind.value)
      && (!words || group.problem.toLowerCase() === words || group.prompt.toLowerCase().includes(words))
      && group.responses.some(fits));
  }

  function groupNode(group) {
    const right = group.responses.filter((response) => response.verdict === "correct").length;
    const summary = `step ${group.step} · ${group.stage} · ${group.kind} · ${right} of ${group.responses.length} right · ${group.problem}`;
    const node = make("details", { class: "group" }, make("summary", { text: summary }));
    return lazily(node, () => {
      const follow = make("button", { type: "button", class: "follow", text: "follow this problem across steps", on: { click: () => {
        form.reset();
        fields.problem.value = group.problem;
        refresh();
        byId("groups").scrollIntoView();
      } } });
      node.append(make("div", { class: "body" }, make("pre", { text: group.prompt }), make("p", { class: "note", text: "Solution: " + group.solution }), follow,
        make("div", { class: "answers" }, ...group.responses.filter(fits).map((response) => answer(response)))));
    });
  }

  function show() {
    const found = chosen();
    byId("group-list").replaceChildren(...found.slice(0, limit).map(groupNode));
    byId("more").hidden = found.length <= limit;
    const responses = found.reduce((sum, group) => sum + group.responses.filter(fits).length, 0);
    byId("found").textContent = data.groups.length ? `${found.length} groups, ${responses} responses` : "";
  }

  const refresh = () => { limit = PAGE; show(); };
  form.addEventListener("input", refresh);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(refresh));
  byId("more").addEventListener("click", () => { limit += PAGE; show(); });
  show();
})();

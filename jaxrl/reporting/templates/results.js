// Summary, warnings, accuracy by behaviour, and evaluations.
const CARD_COLOURS = { correct: "--correct", sound: "--correct", bad_format: "--bad_format", mean: "--accent" };

function showHead(data) {
  byId("subtitle").textContent = data.subtitle;
  byId("cards").append(...data.cards.map((card) => {
    const values = card.series && data.runs[0].series[card.series];
    const colour = `var(${CARD_COLOURS[(card.series || "").split("/").at(-1)] || "--accent"})`;
    const change = card.before ? [make("span", { class: "from", text: card.before }), make("span", { class: "arrow", text: "→" })] : [];
    return make("div", { class: "card" }, make("div", { class: "label", text: card.label }),
      make("div", { class: "value" }, ...change, make("span", { text: card.after })),
      make("div", { class: "note", text: card.note }), values ? sparkline(smooth(values.filter((v) => v !== null), 3), colour) : "");
  }));
  if (data.runs.length > 1) {
    const lines = data.runs_table.lines.map(([name, ...cells], order) => [make("span", {}, make("i", { class: "swatch", "data-order": order }), name), ...cells]);
    byId("runs").append(make("h3", { text: "Runs" }), table(data.runs_table.heads, lines, 1));
    const tint = () => document.querySelectorAll(".swatch").forEach((node) => {
      const line = lineOf(Number(node.dataset.order), palette());
      node.style.borderTop = `3px ${line.dash === "solid" ? "solid" : "dashed"} ${line.color}`;
    });
    tint();
    themeListeners.push(tint);
  }
  if (data.warnings.length) {
    byId("warnings").hidden = false;
    byId("warnings").querySelector("ul").append(...data.warnings.map(([step, text]) => make("li", { text: `step ${step}: ${text}` })));
  }
  byId("config").textContent = JSON.stringify(data.config, null, 2);
  byId("manifest").textContent = JSON.stringify(data.manifest, null, 2);
  byId("setup").hidden = !data.runs.length;
}

// Two shares with their confidence intervals on one axis from 0 to 1.
function whiskers(withIt, without) {
  const X = (value) => 4 + 192 * value;
  const node = makeSvg("svg", { class: "whiskers", viewBox: "0 0 200 30", width: 200, height: 30, "aria-hidden": "true" });
  [0, 0.25, 0.5, 0.75, 1].forEach((value) => node.append(makeSvg("line", { class: "rule", x1: X(value), x2: X(value), y1: 2, y2: 28 })));
  [[withIt, 10, "with"], [without, 20, "without"]].forEach(([estimate, y, side]) => {
    if (!estimate) return;
    node.append(makeSvg("line", { class: `whisker ${side}`, x1: X(estimate[1]), x2: X(estimate[2]), y1: y, y2: y }),
      makeSvg("circle", { class: `whisker ${side}`, cx: X(estimate[0]), cy: y, r: 3.5 }));
  });
  return node;
}

function showBehaviourAccuracy(data) {
  byId("behaviours").hidden = !data.behaviour_accuracy.length && !byId("behaviours").querySelector(".panel");
  if (!data.behaviour_accuracy.length) return;
  const stage = make("select", { name: "behaviour-stage", "aria-label": "stage" }, ...data.behaviour_accuracy.map((part, i) => make("option", { value: i, text: part.stage })));
  const container = make("div");
  const estimate = (interval) => (interval ? `${percent(interval[0])} [${(100 * interval[1]).toFixed(1)}, ${(100 * interval[2]).toFixed(1)}]` : "–");
  const show = () => container.replaceChildren(table(
    ["behaviour", "accuracy: with (filled), without (open)", "share of responses", "accuracy with", "accuracy without"],
    data.behaviour_accuracy[stage.value].lines.map((line) => {
      const link = make("button", { type: "button", class: "link", text: plain(line.name), on: { click: () => showOnly({ behaviour: line.name }) } });
      return [link, whiskers(line.with, line.without), percent(line.share), estimate(line.with), estimate(line.without)];
    }), 2));
  stage.value = data.behaviour_accuracy.length - 1;
  stage.addEventListener("input", show);
  byId("behaviour-accuracy").append(make("h3", {}, "Accuracy with and without each behaviour, stage ", stage),
    make("p", { class: "note", text: "All responses of the stage, with 95 % intervals clustered by step. Correlation is not causation: a behaviour and correct answers may become frequent in the same steps without one causing the other." }),
    container);
  show();
}

function kindChart(data, colours) {
  const shown = data.evaluations.length > 1 ? [data.evaluations[0], data.evaluations.at(-1)] : data.evaluations;
  const traces = [];
  ["sampled", "greedy"].forEach((mode) => shown.forEach((result) => {
    const rows = result.rows.filter((row) => row.mode === mode && row.accuracy[0] !== null);
    if (!rows.length) return;
    const bars = (name, kinds, estimates, pattern) => traces.push({
      type: "bar", name: escaped(name), x: kinds.map((row) => escaped(row.kind)), y: estimates.map((v) => v[0]),
      marker: { color: colours[result === shown.at(-1) ? 0 : 7] + (mode === "greedy" ? "80" : ""), pattern: { shape: pattern } }, hovertemplate: "%{y:.1%}",
      error_y: { type: "data", symmetric: false, array: estimates.map((v) => v[2] - v[0]), arrayminus: estimates.map((v) => v[0] - v[1]), thickness: 1.2 },
    });
    const verified = rows.filter((row) => row.sound);
    bars(`${result.name}, ${mode}`, rows, rows.map((row) => row.accuracy), "");
    if (verified.length) bars(`${result.name}, ${mode}, sound`, verified, verified.map((row) => row.sound), "/");
  }));
  const rows = shown.at(-1).rows.filter((row, i, all) => all.findIndex((other) => other.kind === row.kind) === i);
  traces.push({
    name: "constant-answer baseline", mode: "markers", x: rows.map((row) => escaped(row.kind)), y: rows.map((row) => row.baseline),
    marker: { symbol: "line-ew", size: 26, line: { width: 2, color: colours[1] }, color: colours[1] }, hovertemplate: "%{y:.1%}",
  });
  const look = layout("share", []);
  Object.assign(look, { hovermode: "closest", barmode: "group", bargap: 0.25 });
  look.yaxis.range = [0, 1.02];
  return [traces, look];
}

function showEvaluations(data) {
  if (!data.evaluations.length) return;
  byId("evaluation").hidden = false;
  byId("kind-chart").append(panel("Accuracy by kind of problem, with 95 % intervals", "", (colours) => kindChart(data, colours)));
  const comparison = data.comparison;
  if (comparison) {
    byId("comparison").append(
      make("h3", { text: "Change on the same problems" }),
      make("p", { class: "note", text: "Change of accuracy in percentage points with 95 % interval; problems that became better and worse; accuracy among well-formed responses; mean tokens." }),
      table(comparison.heads, comparison.lines, 2));
  }
  if (data.published.lines.length) {
    byId("published").append(make("h3", { text: "Comparison with published accuracy" }),
      make("p", { class: "note", text: "Published values are from Xie et al. (2025), on puzzles of the same distribution from another generator. Differences of a few points are not meaningful." }),
      table(data.published.heads, data.published.lines, 1));
  }
  data.evaluations.forEach((result) => byId("tables").append(make("details", { class: "more" },
    make("summary", { text: `${result.name}: step ${result.step}, ${result.model}, rule ${result.rule}` }),
    table(result.heads, result.rows.map((row) => row.cells), 2),
    ...(result.errors.lines.length ? [make("p", { class: "note", text: "Where the reasoning first goes wrong, as a share of all responses:" }), table(result.errors.heads, result.errors.lines, 1)] : []),
    ...(result.perturbed.lines.length ? [make("p", { class: "note", text: "The same problems with one change each. Consistent: correct also after the change, as a share of the correct responses. Local inconsistency: correct before the change and wrong after it." }), table(result.perturbed.heads, result.perturbed.lines, 3)] : []))));
}

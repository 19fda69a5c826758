// Responses: before and after side by side, and the browser of rollout groups.
const PAGE = 20, ANSWERS = 8, PAIRS = 6;
const hiddenMarks = new Set();
let showOnly = () => {}; // sets the filters of the browser; defined by showGroups

// Highlights the tags of the format and the behaviours. The first behaviour that is not switched off sets the colour.
function marked(text, marks) {
  const tags = [...text.matchAll(/<\/?(?:think|answer)>/g)].map((tag) => ["tag", tag.index, tag.index + tag[0].length]);
  const all = [...marks, ...tags];
  const pre = make("pre");
  const edges = [...new Set([0, text.length, ...all.flatMap((mark) => [mark[1], mark[2]])])].sort((a, b) => a - b);
  for (let i = 0; i + 1 < edges.length; i += 1) {
    const names = [...new Set(all.filter((mark) => mark[1] <= edges[i] && mark[2] >= edges[i + 1]).map((mark) => mark[0]))];
    const part = text.slice(edges[i], edges[i + 1]);
    if (!names.length) pre.append(part);
    else if (names[0] === "tag") pre.append(make("span", { class: "tag", text: part }));
    else pre.append(colour(make("mark", { text: part, title: names.map(plain).join(", "), "data-names": names.join(" ") })));
  }
  return pre;
}

function colour(mark) {
  const name = mark.dataset.names.split(" ").find((one) => one !== "tag" && !hiddenMarks.has(one));
  mark.className = name ? `b-${name}` : "off";
  return mark;
}

function showLegend(names) {
  byId("legend").append(...names.map((name) => {
    const button = make("button", { type: "button", class: `chip b-${name}`, text: plain(name), "aria-pressed": "true" });
    button.addEventListener("click", () => {
      const off = !hiddenMarks.delete(name);
      if (off) hiddenMarks.add(name);
      button.setAttribute("aria-pressed", String(!off));
      document.querySelectorAll("mark").forEach(colour);
    });
    return button;
  }));
}

function answer(response, label) {
  const times = response.times > 1 ? ` × ${response.times}` : "";
  const head = make("div", { class: "head" }, make("b", { class: `verdict ${response.verdict}`, text: (label ? label + ": " : "") + plain(response.verdict) + times }));
  const addInfo = (text) => head.append(make("span", { text }));
  if (response.reward !== undefined) {
    addInfo(`reward ${signed(response.reward)} (format ${signed(response.format_reward)}, answer ${signed(response.answer_reward)})`);
    if (response.advantage !== null) addInfo(`advantage ${signed(response.advantage)}`);
  }
  addInfo(`${response.length} tokens${response.finished ? "" : ", truncated"}`);
  if (response.style) addInfo(`style ${response.style}`);
  const node = make("div", { class: `answer ${response.verdict}` }, head);
  const reasons = [...(response.reasons || []), ...(response.suspects || []).map((name) => `suspected hack: ${plain(name)}`)];
  if (reasons.length) node.append(make("div", { class: "reasons", text: reasons.join("; ") }));
  node.append(marked(response.response, response.marks));
  return node;
}

function showPairs(data) {
  const comparison = data.comparison;
  if (!comparison || !comparison.pairs.length) return;
  byId("pairs").hidden = false;
  byId("pairs-note").textContent = comparison.note;
  const pairNode = (pair) => {
    const change = pair.better ? "newly correct" : pair.worse ? "newly wrong" : pair.after.verdict === "correct" ? "still correct" : "still wrong";
    const node = make("details", { class: "pair" }, make("summary", {},
      make("span", { class: `change ${pair.after.verdict}`, text: change }), make("span", { class: "kind", text: pair.kind }), make("span", { class: "question", text: pair.question })));
    return lazily(node, () => node.append(make("div", { class: "body" },
      make("p", { class: "solution", text: "Solution: " + pair.solution }),
      make("div", { class: "answers two" }, answer(pair.before, comparison.before), answer(pair.after, comparison.after)))));
  };
  const nodes = comparison.pairs.map(pairNode);
  byId("pair-list").append(...nodes.slice(0, PAIRS));
  nodes[0].open = true;
  byId("more-pairs").hidden = nodes.length <= PAIRS;
  byId("more-pairs").addEventListener("click", () => { byId("pair-list").append(...nodes.slice(PAIRS)); byId("more-pairs").hidden = true; });
}

function showGroups(data) {
  const form = byId("filters"), fields = form.elements;
  let limit = PAGE;
  byId("groups").hidden = !data.runs.length;
  byId("groups-note").textContent = data.groups_note;

  function options(name, values) {
    fields[name].append(make("option", { value: "", text: "any" }), ...[...new Set(values)].map((value) => make("option", { value, text: plain(value) })));
  }
  const names = [...new Set(data.groups.flatMap((group) => group.responses.flatMap((response) => response.marks.map((mark) => mark[0]))))].sort();
  options("step", data.groups.map((group) => group.step));
  options("stage", data.groups.map((group) => group.stage));
  options("kind", data.kinds);
  options("verdict", data.groups.flatMap((group) => group.responses.map((response) => response.verdict)).sort());
  options("behaviour", names);
  showLegend(names);

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
    const each = group.verdicts.flatMap(([verdict, times]) => Array(times).fill(verdict));
    const correct = each.filter((verdict) => verdict === "correct").length;
    const part = group.shown < each.length ? `the first ${group.shown} of ${each.length} responses · ` : "";
    const strip = make("span", { class: "strip", title: `${correct} of ${each.length} correct` }, ...each.map((verdict) => make("i", { class: verdict })));
    const node = make("details", { class: "group", "data-problem": group.problem }, make("summary", {},
      make("span", { class: "kind", text: `step ${group.step} · ${group.stage} · ${group.kind} · ${correct} of ${each.length} correct` }), strip,
      make("span", { class: "question", text: group.question || group.problem })));
    return lazily(node, () => {
      const follow = make("button", { type: "button", class: "follow", text: "follow this problem across steps", on: { click: () => showOnly({ problem: group.problem }) } });
      const matching = group.responses.filter(fits), answers = make("div", { class: "answers" }, ...matching.slice(0, ANSWERS).map((response) => answer(response)));
      const showRest = make("button", { type: "button", text: `show ${matching.length - ANSWERS} more`, on: { click: () => {
        answers.append(...matching.slice(ANSWERS).map((response) => answer(response)));
        showRest.remove();
      } } });
      node.append(make("div", { class: "body" }, make("pre", { class: "prompt", text: group.prompt }),
        make("p", { class: "solution", text: "Solution: " + group.solution }), make("p", { class: "note" }, `${part}problem ${group.problem} `, follow),
        answers, matching.length > ANSWERS ? showRest : ""));
    });
  }

  function show() {
    const matching = chosen();
    byId("group-list").replaceChildren(...matching.slice(0, limit).map(groupNode));
    byId("more").hidden = matching.length <= limit;
    const responses = matching.reduce((sum, group) => sum + group.responses.filter(fits).reduce((all, response) => all + response.times, 0), 0);
    byId("found").textContent = data.groups.length ? `${matching.length} groups, ${responses} responses` : "";
  }

  const refresh = () => { limit = PAGE; show(); };
  form.addEventListener("input", refresh);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(refresh));
  byId("more").addEventListener("click", () => { limit += PAGE; show(); });
  showOnly = (values) => {
    for (const field of fields) if (field.name) field.value = values[field.name] || "";
    refresh();
    byId("groups").scrollIntoView();
  };
  show();
}

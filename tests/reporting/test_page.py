"""The report page: whole in one file, asks for nothing, and whatever a model wrote stays text."""

import html.parser
import json
from pathlib import Path

import pytest

from jaxrl.evaluation.table import EvaluationResult, Item, Sample
from jaxrl.report import main
from jaxrl.reporting.curves import curves_svg, moving_average, ticks
from jaxrl.reporting.page import TEMPLATES, embedded_json, render_page
from jaxrl.reporting.page_data import choose_groups, marks, page_data
from jaxrl.reporting.rollouts import GroupRecord, ResponseRecord, write_rollouts
from jaxrl.reporting.run_folder import Band, read_run, stage_bands, write_evaluation
from jaxrl.reporting.writers import JsonlWriter

HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)><!-- \u2028 & '\" 等等 \U0001f600 **bold**"
)


def response(verdict="correct", text=HOSTILE):
    return ResponseRecord(text, verdict, (HOSTILE,), (), 1.0, 2.0, 3.0, 0.5, 9, True)


def result(name, right, step):
    items = []
    for index in range(10):
        answer = Sample("correct" if index < right else "bad_format", 9, True, "guess", HOSTILE)
        items.append(Item(f"e{index}", "p3", HOSTILE, "Ann is a knight", False, (answer,), (answer, answer)))
    return EvaluationResult(name, HOSTILE, step, "rule-1", {}, tuple(items))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a <b>run"
    writer = JsonlWriter(folder / "metrics.jsonl")
    writer.write({"step": 0, "evaluation/p3/greedy/accuracy": 0.1})
    for step in range(1, 9):
        record = {"step": step, "stage": "one" if step < 5 else "two", "reward/mean": step / 4 - 1}
        record |= {"share/correct": step / 10, "length/mean": 50.0 + step, "behaviour/hesitation": 0.5}
        if step == 3:
            record |= {"gradient_norm": float("nan"), "warnings": [HOSTILE]}
        writer.write(record)
        groups = [
            GroupRecord(
                step, "one", n, f"kk-{(step + n) % 4}", "p3", HOSTILE, "Ann: knight", (response(), response())
            )
            for n in range(3)
        ]
        write_rollouts(folder / "rollouts", step, groups)
    writer.close()
    write_evaluation(folder, result("after", 7, 8))
    write_evaluation(folder, result("before", 2, 0))
    (folder / "config.json").write_text(json.dumps({"note": HOSTILE}))
    return folder


class Reader(html.parser.HTMLParser):
    """What a browser would make of the page: elements with their attributes, and the text of each script."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.titles, self.inside = [], [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data
        if self.inside == "title":
            self.titles += data


@pytest.fixture(scope="module")
def page(workdir):
    return render_page([read_run(workdir)])


def test_hostile_text_stays_text(page):
    reader = Reader(page)
    assert len(reader.scripts) == 3  # data, plotly, ours
    assert not any(tag in ("img", "b") for tag, _ in reader.elements)
    data = json.loads(reader.scripts[0])
    assert data["groups"][0]["responses"][0]["response"] == HOSTILE
    assert data["warnings"] == [[3, HOSTILE]]
    assert data["config"] == {"note": HOSTILE}
    assert reader.titles == "a <b>run · jaxrl report"
    assert "<" not in reader.scripts[0]


def test_the_script_sets_model_text_only_as_text():
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    for way_in in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert way_in not in script


def test_the_page_asks_the_network_for_nothing(page):
    reader = Reader(page)
    for _, attributes in reader.elements:
        assert "src" not in attributes
        assert attributes.get("href", "#")[:1] == "#" or attributes["href"] == "data:,"
    policy = next(
        a["content"] for tag, a in reader.elements if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")
    assert page.count("plotly.js v") >= 1
    assert len(page) < 8_000_000


def test_what_the_page_shows(workdir):
    data = page_data([read_run(workdir)])
    assert data["runs"][0]["bands"] == [["one", 1, 4], ["two", 5, 8]]
    assert data["runs"][0]["series"]["reward/mean"][:2] == [None, -0.75]
    assert "gradient_norm" not in data["runs"][0]["series"]  # nan can't be drawn
    titles = [panel["title"] for panel in data["panels"]]
    assert titles == [
        "Reward",
        "What became of the responses",
        "Response length",
        "Behaviours",
        "Held-out accuracy",
    ]
    assert [entry["name"] for entry in data["evaluations"]] == ["before", "after"]
    greedy = data["comparison"]["lines"][0]
    assert greedy[:4] == ["3 people", "greedy", "20.0% [5.7, 51.0]", "70.0% [39.7, 89.2]"]
    assert greedy[4].startswith("+50.0 [")
    assert [pair["better"] for pair in data["comparison"]["pairs"]] == [True] * 5 + [False] * 5
    assert (data["kinds"], data["groups"][0]["kind"]) == (["3 people"], "3 people")
    json.dumps(data, allow_nan=False)


def test_other_puzzles_are_not_compared(workdir, tmp_path):
    run = read_run(workdir)
    other = run.evaluations[1]
    other = EvaluationResult(other.name, other.model, 8, other.rule, {}, other.items[1:])
    assert page_data([run._replace(evaluations=[run.evaluations[0], other])])["comparison"] is None


def test_groups_fit_the_budget_and_a_puzzle_can_be_followed(workdir):
    run = read_run(workdir)
    everything, note = choose_groups(run, 10**9)
    assert len(everything) == 24
    assert "24 of 24 groups of 8 steps" in note
    one_each = max(len(json.dumps(group, ensure_ascii=False).encode()) for group in everything)
    chosen, note = choose_groups(run, 8 * one_each)
    assert [group["step"] for group in chosen] == list(range(1, 9))
    assert note.startswith("8 of 24")
    assert len({group["problem"] for group in chosen}) < 4  # the same problems again, not new ones each step
    assert choose_groups(run._replace(rollout_steps=[]), 10)[0] == []


def test_marks_are_counted_as_browsers_count():
    text = "\U0001f600 **bold**"
    assert ["markdown", 3, 11] in marks(text)
    encoded = text.encode("utf-16-le")
    assert encoded[3 * 2 : 11 * 2].decode("utf-16-le") == "**bold**"


def test_embedded_json_is_json_without_markup():
    text = embedded_json({"a": HOSTILE})
    assert json.loads(text) == {"a": HOSTILE}
    assert not set("<>&\u2028") & set(text)


def test_stage_bands_leave_out_the_state_before_training():
    records = [{"step": 0}, {"step": 1, "stage": "a"}, {"step": 2, "stage": "b"}, {"step": 3, "stage": "b"}]
    assert stage_bands(records) == [Band("a", 1, 1), Band("b", 2, 3)]


def test_curves_are_one_wellformed_picture(workdir):
    import xml.etree.ElementTree as tree

    picture = tree.fromstring(curves_svg(read_run(workdir), title=HOSTILE.replace("\u2028", "")))
    texts = [node.text for node in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {
        "mean reward",
        "share correct",
        "mean response length (tokens)",
        "one",
        "two",
        "not measured",
    } <= set(texts)
    lines = [node.get("points") for node in picture.iter("{http://www.w3.org/2000/svg}polyline")]
    assert all(len(line.split()) == 8 for line in lines)
    heights = [float(point.split(",")[1]) for point in lines[0].split()]
    assert heights == sorted(heights, reverse=True)  # a rising reward rises on the page


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 150, [0, 50, 100, 150]), (0.0, 0.1, [0, 0.05, 0.1]), (-1.1, 1.2, [-1, 0, 1]), (3, 3, [3])],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high, 3) == expected


def test_moving_average_is_centred_and_whole_at_the_ends():
    assert moving_average([1.0, 2.0, 6.0, 3.0], 3) == [1.5, 3.0, 11 / 3, 4.5]
    assert moving_average([1.0, 5.0], 1) == [1.0, 5.0]


def test_command(workdir, tmp_path, capsys):
    output, picture = tmp_path / "page.html", tmp_path / "curves.svg"
    assert main([f"--workdir={workdir}", f"--output={output}", f"--curves={picture}"]) == 0
    assert output.stat().st_size > 1_000_000
    assert picture.read_text().startswith("<svg")
    assert main([f"--workdir={tmp_path}"]) == 2
    sentence = capsys.readouterr().err
    assert "holds no metrics.jsonl" in sentence
    assert sentence.count("\n") == 1
    assert not Path(tmp_path / "report.html").exists()

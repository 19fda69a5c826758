"""The report page: one self-contained file without network requests, and model text that stays text."""

import base64
import dataclasses
import gzip
import html.parser
import json
import random
import re
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs

from jaxrl.evaluation.intervals import clustered_proportion
from jaxrl.evaluation.results import Sample, to_json
from jaxrl.report import main
from jaxrl.reporting.curves import curves_svg, moving_average, ticks
from jaxrl.reporting.page import SCRIPTS, TEMPLATES, compress, render_page
from jaxrl.reporting.page_data import page_data
from jaxrl.reporting.page_groups import BUDGET_BYTES, choose_groups, marks, response_data
from jaxrl.reporting.page_tables import behaviour_accuracy
from jaxrl.reporting.run_folder import Band, read_run, stage_bands


def decompress(text):
    return gzip.decompress(base64.b64decode(text)).decode()


class Reader(html.parser.HTMLParser):
    """Parses a page into its elements with attributes, and the text of each script."""

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


def test_hostile_text_stays_text(page, hostile):
    reader = Reader(page)
    assert len(reader.scripts) == 3  # data, plotly, the page's script
    assert not any(tag in ("img", "mark") for tag, _ in reader.elements)
    data = json.loads(decompress(reader.scripts[0]))
    assert data["groups"][0]["responses"][0]["response"] == hostile
    assert data["warnings"] == [[3, hostile], [5, "rejected by the guard: the KL is high"]]
    assert data["config"] == {"note": hostile, "model": hostile}
    assert reader.titles == "a <b>run · jaxrl report"
    assert all(re.fullmatch(r"[A-Za-z0-9+/=]+", text) for text in reader.scripts[:2])


def test_scripts_never_insert_html():
    script = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in SCRIPTS)
    assert "textContent" in script
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert sink not in script


def test_page_makes_no_network_requests(page):
    reader = Reader(page)
    for _, attributes in reader.elements:
        assert "src" not in attributes
        assert attributes.get("href", "#")[:1] == "#" or attributes["href"] == "data:,"
    policy = next(a["content"] for tag, a in reader.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "plotly.js v" in decompress(reader.scripts[1])[:2000]
    assert len(page) < 2_500_000


def test_page_is_reproducible(workdir, page):
    assert render_page([read_run(workdir)]) == page


def test_page_data(workdir):
    data = page_data([read_run(workdir)])
    assert data["runs"][0]["bands"] == [["one", 1, 4], ["two", 5, 8]]
    assert data["runs"][0]["series"]["reward/mean"][:2] == [None, -0.75]
    assert "gradient_norm" not in data["runs"][0]["series"]  # nan is not plotted
    assert "behaviour/verification/with" not in data["runs"][0]["series"]  # no panel shows it
    panels = {panel["title"]: [one["label"] for one in panel["series"]] for panel in data["panels"]}
    assert panels == {  # all suspects and `boxed` are 0, and one evaluation is no curve
        "Reward": ["mean"],
        "Responses by verdict": ["correct", "wrong answer"],
        "Response length": ["mean"],
        "Behaviours": ["verification"],
    }
    assert [entry["name"] for entry in data["evaluations"]] == ["before", "after"]
    greedy = data["comparison"]["lines"][0]
    assert greedy[:4] == ["3 people", "greedy", "20.0% [5.7, 51.0]", "70.0% [39.7, 89.2]"]
    assert greedy[4].startswith("+50.0 [")
    assert [pair["better"] for pair in data["comparison"]["pairs"]] == [True] * 5 + [False] * 5
    assert data["comparison"]["note"].startswith("Of 10 problems, 5 are newly correct and 0 newly wrong")
    assert data["kinds"] == ["3 people", "5 people"]
    assert data["published"]["lines"][:2] == [["before", "20%"], ["after", "70%"]]
    assert ["GPT-4o", "57%"] in data["published"]["lines"]
    json.dumps(data, allow_nan=False)


def test_summary_cards(workdir):
    held_out, accuracy, *_ = page_data([read_run(workdir)])["cards"]
    assert (held_out["before"], held_out["after"]) == ("20.0%", "70.0%")
    assert held_out["note"].startswith("3 people, sampled, 10 problems × 2; +50.0 points [")
    assert held_out["note"].endswith("; constant answer 0.0%")
    assert (accuracy["before"], accuracy["after"], accuracy["series"]) == ("10.0%", "80.0%", "share/correct")


def test_accuracy_by_behaviour_is_counted_per_stage(workdir):
    one, two = behaviour_accuracy(read_run(workdir))
    assert (one["stage"], two["stage"]) == ("one", "two")
    assert [line["name"] for line in one["lines"]] == ["verification"]  # behaviours that never occur have no line
    # Each step has 450 / 50 = 9 responses: 3 with it, all correct, and 6 without it, half of them correct.
    assert one["lines"][0]["share"] == pytest.approx(1 / 3)
    assert one["lines"][0]["with"] == list(clustered_proportion([3] * 4, [3] * 4))
    assert one["lines"][0]["without"] == list(clustered_proportion([3] * 4, [6] * 4))


def test_comparison_of_runs(workdirs):
    data = page_data([read_run(workdir) for workdir in workdirs], title="heat")
    assert [line[0] for line in data["runs_table"]["lines"]] == ["a <b>run", "second", "third"]
    assert data["runs_table"]["lines"][1][1:3] == ["8", "80.0%"]
    assert data["runs_table"]["lines"][2][-2:] == ["20.0% [5.7, 51.0]", "70.0% [39.7, 89.2]"]
    assert data["subtitle"].startswith("details of a <b>run · ")


def test_soundness_is_beside_accuracy(verified_run):
    data = page_data([read_run(verified_run)])
    panels = {panel["title"]: [one["label"] for one in panel["series"]] for panel in data["panels"]}
    assert panels["Correct, and correct by sound reasoning"] == ["correct", "sound"]
    assert panels["First wrong step of the reasoning"] == ["check wrong role"]
    assert panels["Held-out accuracy during training"] == ["3 people, sampled", "3 people, sampled, sound"]
    # A kind of error that a verified step does not have is 0 there.
    assert data["runs"][0]["series"]["reasoning_errors/check_wrong_role"] == [None, 0.5, 0.0, 0.5, 0.5]
    held_out, sound, _, training, *_ = data["cards"]
    assert (held_out["before"], held_out["after"]) == ("80.0%", "80.0%")
    assert (sound["label"], sound["before"], sound["after"]) == ("held-out, sound", "10.0%", "50.0%")
    assert (training["before"], training["series"]) == ("25.0%", "share/sound")
    line = dict(zip(data["comparison"]["heads"], data["comparison"]["lines"][1], strict=True))
    assert line["sound"] == "10.0% [1.8, 40.4] → 50.0% [23.7, 76.3]"
    row = dict(zip(data["evaluations"][1]["heads"], data["evaluations"][1]["rows"][1]["cells"], strict=True))
    assert (row["accuracy"][:5], row["sound"][:5], row["sound pass@k"]) == ("80.0%", "50.0%", "1: 50.0%, 2: 50.0%")
    assert data["evaluations"][1]["errors"]["lines"] == [["check: wrong role", "50.0%"]]
    runs = dict(zip(data["runs_table"]["heads"], data["runs_table"]["lines"][0], strict=True))
    assert (runs["sound in training"], runs["sound after"]) == ("25.0%", "50.0% [23.7, 76.3]")


def test_the_first_wrong_step_is_in_the_data_of_a_response(verified_run, hostile):
    data = page_data([read_run(verified_run)])
    group = data["groups"][0]
    assert (group["sound"], [response["sound"] for response in group["responses"]]) == (1, [True, False, False, False])
    start, end = group["responses"][1]["span"]
    assert hostile[start:end] == "<img"  # only characters of one UTF-16 unit come before
    assert "hollow square" in data["groups_note"]


def test_a_wrong_step_is_in_utf16_units():
    text = "\U0001f600 Try ANN."
    data = response_data(Sample("correct", 3, True, "", text, False, "case", (2, 10)))
    assert data["span"] == [3, 11]
    assert text.encode("utf-16-le")[3 * 2 : 11 * 2].decode("utf-16-le") == "Try ANN."


def test_runs_without_verified_reasoning_show_no_soundness(workdir):
    data = page_data([read_run(workdir)])
    assert not any("sound" in head for head in data["runs_table"]["heads"] + data["comparison"]["heads"])
    assert not any("sound" in head for result in data["evaluations"] for head in result["heads"])
    assert not any("sound" in card["label"] for card in data["cards"])
    assert data["evaluations"][0]["errors"]["lines"] == []
    assert {group["sound"] for group in data["groups"]} == {None}


def test_page_of_two_evaluations_without_a_run(evaluated):
    data = page_data([], evaluations=[evaluated("before", 1, 0), evaluated("after", 9, 0)])
    assert data["comparison"]["lines"][0][4].startswith("+80.0 [")
    assert (data["runs"], data["groups"], data["panels"], data["behaviour_accuracy"]) == ([], [], [], [])
    with pytest.raises(ValueError, match="got neither"):
        render_page([])


def test_evaluations_on_different_problems_are_not_compared(workdir, tmp_path):
    run = read_run(workdir)
    other = run.evaluations[1]
    fewer = dataclasses.replace(other, items=other.items[1:])
    data = page_data([run._replace(evaluations=[run.evaluations[0], fewer])])
    assert data["comparison"] is None
    assert "points" not in data["cards"][0]["note"]


def test_groups_fit_the_budget_and_repeat_problems_across_steps(workdir):
    run = read_run(workdir)
    all_groups, note = choose_groups(run, 10**9)
    assert len(all_groups) == 24
    assert "24 of 24 groups and 72 of 72 responses of 8 steps" in note
    group_size = max(len(json.dumps(group, ensure_ascii=False).encode()) for group in all_groups)
    chosen, note = choose_groups(run, 8 * group_size)
    assert [group["step"] for group in chosen] == list(range(1, 9))
    assert note.startswith("This page has 8 of 24")
    assert len({group["problem"] for group in chosen}) < 4  # problems are repeated across steps
    assert choose_groups(run._replace(rollout_steps=[]), 10)[0] == []


def test_group_larger_than_the_budget_has_fewer_responses(workdir):
    run = read_run(workdir)
    size = len(json.dumps(choose_groups(run, 10**9)[0][0], ensure_ascii=False).encode())
    chosen, note = choose_groups(run, 8 * (size - 1))
    assert [(group["shown"], group["verdicts"]) for group in chosen] == [(1, [["correct", 2], ["wrong_answer", 1]])] * 8
    assert note.startswith("This page has 8 of 24 groups and 8 of 72 responses")
    assert choose_groups(run, 80)[0] == []


def test_equal_responses_are_merged(workdir):
    group = choose_groups(read_run(workdir), 10**9)[0][0]
    assert [(response["verdict"], response["times"]) for response in group["responses"]] == [
        ("correct", 2),
        ("wrong_answer", 1),
    ]


def test_marks_are_in_utf16_units():
    text = "\U0001f600 **bold**"
    assert ["markdown", 3, 11] in marks(text)
    encoded = text.encode("utf-16-le")
    assert encoded[3 * 2 : 11 * 2].decode("utf-16-le") == "**bold**"


def test_names_are_not_marked_as_another_language():
    text = "Suppose that 雅婷小龙 is a knight and then she is honest because she says it."
    assert any(mark[0] == "mixed_language" for mark in marks(text))
    assert not any(mark[0] == "mixed_language" for mark in marks(text, ("雅婷小龙",)))


def test_compressed_text_is_base64_and_round_trips(hostile):
    assert decompress(compress(hostile)) == hostile
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", compress(hostile))


def test_page_stays_below_25_megabytes_with_incompressible_text():
    letters = random.Random(0).choices([chr(code) for code in range(32, 127)], k=1_000_000)
    growth = len(compress("".join(letters))) / 1e6
    assert 1 < growth < 1.15
    assert BUDGET_BYTES * growth + len(compress(get_plotlyjs())) < 24.5e6


def test_stage_bands_exclude_step_0():
    records = [{"step": 0}, {"step": 1, "stage": "a"}, {"step": 2, "stage": "b"}, {"step": 3, "stage": "b"}]
    assert stage_bands(records) == [Band("a", 1, 1), Band("b", 2, 3)]


def test_svg_of_the_curves(workdir, hostile):
    import xml.etree.ElementTree as tree

    picture = tree.fromstring(curves_svg(read_run(workdir), title=hostile.replace("\u2028", "")))
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
    assert heights == sorted(heights, reverse=True)  # a rising reward rises in the picture


def test_the_picture_has_the_sound_share_below_the_share_correct(workdir):
    import xml.etree.ElementTree as tree

    run = read_run(workdir)
    records = [record | ({"share/sound": record["step"] / 20} if record["step"] else {}) for record in run.records]
    svg = "{http://www.w3.org/2000/svg}"
    before, after = (tree.fromstring(curves_svg(each)) for each in (run, run._replace(records=records)))
    assert "share sound" in [node.text for node in after.iter(f"{svg}text")]
    assert "share sound" not in [node.text for node in before.iter(f"{svg}text")]
    lines = list(after.iter(f"{svg}polyline"))
    correct, sound = lines[3].get("points").split(), lines[5].get("points").split()
    assert lines[5].get("stroke-dasharray")
    assert [point.split(",")[0] for point in correct] == [point.split(",")[0] for point in sound]
    assert all(float(b.split(",")[1]) > float(a.split(",")[1]) for a, b in zip(correct, sound, strict=True))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 150, [0, 50, 100, 150]), (0.0, 0.1, [0, 0.05, 0.1]), (-1.1, 1.2, [-1, 0, 1]), (3, 3, [3])],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high, 3) == expected


def test_moving_average_is_centred_and_truncated_at_the_ends():
    assert moving_average([1.0, 2.0, 6.0, 3.0], 3) == [1.5, 3.0, 11 / 3, 4.5]
    assert moving_average([1.0, 5.0], 1) == [1.0, 5.0]


def test_command(workdir, tmp_path, capsys, evaluated):
    output, picture = tmp_path / "page.html", tmp_path / "curves.svg"
    assert main([f"--workdir={workdir}", f"--output={output}", f"--curves={picture}"]) == 0
    assert output.stat().st_size > 1_000_000
    assert picture.read_text().startswith("<svg")
    assert main([f"--workdir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert "found no metrics.jsonl" in error
    assert error.count("\n") == 1
    assert not Path(tmp_path / "report.html").exists()
    files = [tmp_path / f"two.{name}.json" for name in ("before", "after")]
    for path, right in zip(files, (1, 9), strict=True):
        path.write_text(to_json(evaluated(path.suffixes[0][1:], right, 0)))
    assert main([f"--evaluation={path}" for path in files]) == 0
    assert (tmp_path / "two.before.html").exists()
    files[0].write_text("{}")
    assert main([f"--evaluation={files[0]}"]) == 2
    assert "two.before.json: expected the JSON of an evaluation" in capsys.readouterr().err
    assert main([]) == 2
    assert "expected a --workdir" in capsys.readouterr().err

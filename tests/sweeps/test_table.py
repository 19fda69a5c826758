"""Tables and plot of a sweep from recorded run folders: means over seeds, intervals and unfinished runs."""

import dataclasses
from xml.etree import ElementTree

import pytest

from jaxrl.evaluation.results import EvaluationResult, Item, Sample
from jaxrl.reporting.page_data import page_data
from jaxrl.reporting.run_folder import read_run, write_evaluation
from jaxrl.reporting.writers import JsonlWriter
from jaxrl.sweeps.plot import sweep_svg
from jaxrl.sweeps.table import sweep_markdown


def result(name, right, broken, seed, rule="strict-1"):
    """Ten problems, one greedy response each: `right` correct, `broken` badly formatted, the others wrong."""
    verdicts = ["correct"] * right + ["bad_format"] * broken + ["wrong_answer"] * (10 - right - broken)
    items = [
        Item(f"s{seed}-{number}", "p3", "?", "!", False, (Sample(verdict, 20 + right, True, "", ""),), ())
        for number, verdict in enumerate(verdicts)
    ]
    return EvaluationResult(name, "model", 0, rule, {"temperature": 1.0}, tuple(items))


def run(folder, seed, right, broken=0, seconds=2.0, finished=True, rule="strict-1"):
    """A run folder with two steps of `seconds` each; before training 2 of 10 are correct and 4 badly formatted."""
    writer = JsonlWriter(folder / "metrics.jsonl")
    for step in range(3):
        writer.write({"step": step} | ({"time/step": seconds, "reward/mean": 0.5} if step else {}))
    writer.close()
    write_evaluation(folder, result("before", 2, 4, seed, rule))
    if finished:
        write_evaluation(folder, result("after", right, broken, seed, rule))
    return read_run(folder)


@pytest.fixture
def outcomes(tmp_path):
    return [
        ("cold", 0, run(tmp_path / "c0", 0, 5)),
        ("cold", 1, run(tmp_path / "c1", 1, 7)),
        ("warm", 0, run(tmp_path / "w0", 0, 8, 1, 30.0)),
        ("warm", 1, run(tmp_path / "w1", 1, 10, 0, 32.0)),
        ("warm", 2, run(tmp_path / "w2", 2, 9, finished=False)),
        ("hot", 0, None),
    ]


def row(text, start):
    (line,) = (line for line in text.splitlines() if line.startswith(start))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_sound_accuracy_is_a_column_if_reasoning_is_verified(outcomes):
    """In every run, four correct responses are sound: less before training, as there are only two correct ones."""
    verified = []
    for setting, seed, one in outcomes[:4]:
        evaluations = [
            dataclasses.replace(
                each,
                items=tuple(
                    item._replace(greedy=(item.greedy[0]._replace(sound=number < 4),))
                    for number, item in enumerate(each.items)
                ),
            )
            for each in one.evaluations
        ]
        verified.append((setting, seed, one._replace(evaluations=evaluations)))
    text = sweep_markdown("heat", verified)
    assert "| vs. cold | sound | well-formed |" in text
    assert row(text, "| cold | 2 | 20")[5] == "20.0% [20.0, 20.0] -> 40.0% [40.0, 40.0]"


def test_means_over_seeds_with_intervals(outcomes):
    text = sweep_markdown("heat", outcomes)
    assert "## 3 people, greedy (10 problems x 1, constant answer 0.0%)" in text
    assert "sound" not in text
    # 0.5 and 0.7: standard deviation sqrt(0.02), t = 12.706 at one degree of freedom: 0.6 +- 1.27, clipped to [0, 1].
    assert row(text, "| cold | 2 | 20") == [
        "cold",
        "2",
        "20.0% [20.0, 20.0]",
        "60.0% [0.0, 100.0]",
        "-",
        "33.3% -> 60.0%",
        "40.0% -> 0.0%",
        "22 -> 26",
    ]
    # Correct among well-formed: 8 of 9 and 10 of 10. Against cold, +3 of 10 for both seeds: zero spread, zero width.
    assert row(text, "| warm | 2 | 20") == [
        "warm",
        "2",
        "20.0% [20.0, 20.0]",
        "90.0% [0.0, 100.0]",
        "+30.0 [+30.0, +30.0] points",
        "33.3% -> 94.4%",
        "40.0% -> 5.0%",
        "22 -> 29",
    ]
    assert "Not comparable" not in text


def test_unfinished_runs_are_listed_and_not_averaged(outcomes):
    text = sweep_markdown("heat", outcomes)
    assert row(text, "| warm | 2 of 3") == ["warm", "2 of 3", "2", "1 min 02 s"]
    assert row(text, "| hot |") == ["hot", "0 of 1", "-", "-"]


def test_one_seed_has_no_interval(outcomes):
    assert row(sweep_markdown("heat", [outcomes[0], outcomes[2]]), "| warm | 1 | 20")[2:5] == [
        "20.0%",
        "80.0%",
        "+30.0 points",
    ]


def test_settings_evaluated_with_different_rules_are_not_comparable(outcomes, tmp_path):
    other = ("lax", 1, run(tmp_path / "lax", 1, 9, rule="answer-only-1"))
    assert "**Not comparable**: with seed 1 " in sweep_markdown("heat", [*outcomes, other])


def test_report_page_contains_all_runs_and_details_the_first(outcomes):
    data = page_data([run for _, _, run in outcomes if run], title="heat")
    assert data["title"] == "heat" and "c0" in data["subtitle"].split(" · ")[0]
    assert [curves["name"] for curves in data["runs"]] == ["c0", "c1", "w0", "w1", "w2"]


def test_plot_contains_each_finished_seed_and_the_interval_of_the_mean(outcomes):
    tree = ElementTree.fromstring(sweep_svg("a < b", outcomes))

    def count(kind, accuracy, setting):
        """Number of dots of a kind at this accuracy in the row of a setting."""
        x, y = 190 + accuracy * (860 - 190 - 24), 44 + 34 * (setting + 0.5)
        return sum(
            mark.get("class") == kind and abs(float(mark.get("cx")) - x) < 0.1 and float(mark.get("cy")) == y
            for mark in tree.iter("{http://www.w3.org/2000/svg}circle")
        )

    assert [count("seed", accuracy, 0) for accuracy in (0.5, 0.7, 0.9)] == [1, 1, 0]  # cold
    assert [count("seed", accuracy, 1) for accuracy in (0.8, 1.0, 0.9)] == [1, 1, 0]  # warm, without its third seed
    assert [count("mean", accuracy, setting) for accuracy, setting in ((0.6, 0), (0.9, 1))] == [1, 1]
    assert [count("before", 0.2, setting) for setting in (0, 1)] == [1, 1]
    lines = [mark.get("d") for mark in tree.iter("{http://www.w3.org/2000/svg}path") if mark.get("class") == "interval"]
    assert lines == ["M190.0 61.0H836.0", "M190.0 95.0H836.0"]  # two seeds: all of [0, 1]
    texts = [text.text for text in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert "cold (n = 2)" in texts and not any("hot" in text for text in texts)
    assert sweep_svg("heat", [("hot", 0, None)]) == ""

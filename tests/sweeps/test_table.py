"""The table of a sweep from recorded run folders: means over seeds, intervals, pairs by seed, and what is left out."""

from xml.etree import ElementTree

import pytest

from jaxrl.evaluation.intervals import Estimate
from jaxrl.evaluation.results import EvaluationResult, Item, Sample
from jaxrl.reporting.page_data import page_data
from jaxrl.reporting.run_folder import read_run, write_evaluation
from jaxrl.reporting.writers import JsonlWriter
from jaxrl.sweeps.halving_decisions import Stop
from jaxrl.sweeps.plot import sweep_svg
from jaxrl.sweeps.table import sweep_markdown


def result(name, right, broken, seed, rule="strict-1"):
    """Ten problems, one greedy answer to each: `right` correct, `broken` of bad format, the others wrong."""
    verdicts = ["correct"] * right + ["bad_format"] * broken + ["wrong_answer"] * (10 - right - broken)
    items = [
        Item(f"s{seed}-{number}", "p3", "?", "!", False, (Sample(verdict, 20 + right, True, "", ""),), ())
        for number, verdict in enumerate(verdicts)
    ]
    return EvaluationResult(name, "model", 0, rule, {"temperature": 1.0}, tuple(items))


def run(folder, seed, right, broken=0, seconds=2.0, finished=True, rule="strict-1"):
    """A run folder of two steps that took `seconds` each; right before: 2 of 10, 4 of them broken."""
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


def test_means_over_seeds_with_their_interval(outcomes):
    text = sweep_markdown("heat", outcomes)
    assert "## 3 people, greedy (10 problems x 1)" in text
    # .5 and .7: standard deviation sqrt(.02), t 12.706 at one degree of freedom, so .6 +- 1.27, kept within a share.
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
    # Right of the well-formed: 8 of 9 and 10 of 10. Against cold, +3 of 10 with either seed: no spread, no width.
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


def test_runs_that_are_not_finished_are_told_and_not_counted(outcomes):
    text = sweep_markdown("heat", outcomes)
    assert row(text, "| warm | 2 of 3") == ["warm", "2 of 3", "2", "1 min 02 s"]
    assert row(text, "| hot |") == ["hot", "0 of 1", "-", "-"]


def test_what_was_stopped_early_is_told_with_its_step_and_what_it_was_held_against(outcomes):
    stop = Stop("hot", 10, Estimate(0.1, 0.05, 0.2), "warm", Estimate(0.5, 0.4, 0.6))
    text = sweep_markdown("heat", outcomes, [stop])
    assert row(text, "| hot | 10") == ["hot", "10", "10.0% [5.0, 20.0]", "warm", "50.0% [40.0, 60.0]"]
    assert "stopped early" not in sweep_markdown("heat", outcomes)


def test_one_seed_has_no_interval(outcomes):
    assert row(sweep_markdown("heat", [outcomes[0], outcomes[2]]), "| warm | 1 | 20")[2:5] == [
        "20.0%",
        "80.0%",
        "+30.0 points",
    ]


def test_settings_that_were_judged_by_other_rules_are_not_comparable(outcomes, tmp_path):
    other = ("lax", 1, run(tmp_path / "lax", 1, 9, rule="answer-only-1"))
    assert "**Not comparable**: with seed 1 " in sweep_markdown("heat", [*outcomes, other])


def test_the_page_names_the_sweep_and_the_run_that_is_told_in_full(outcomes):
    data = page_data([run for _, _, run in outcomes if run], title="heat")
    assert (data["title"], data["subtitle"].split(" · ")[0]) == ("heat", "told in full: c0")
    assert [curves["name"] for curves in data["runs"]] == ["c0", "c1", "w0", "w1", "w2"]


def test_the_plot_has_every_finished_seed_and_the_interval_of_their_mean(outcomes):
    tree = ElementTree.fromstring(sweep_svg("a < b", outcomes))

    def at(kind, share, setting):
        """How many marks of a kind stand at this share in the row of a setting."""
        x, y = 190 + share * (860 - 190 - 24), 44 + 34 * (setting + 0.5)
        return sum(
            mark.get("class") == kind and abs(float(mark.get("cx")) - x) < 0.1 and float(mark.get("cy")) == y
            for mark in tree.iter("{http://www.w3.org/2000/svg}circle")
        )

    assert [at("seed", share, 0) for share in (0.5, 0.7, 0.9)] == [1, 1, 0]  # cold
    assert [at("seed", share, 1) for share in (0.8, 1.0, 0.9)] == [1, 1, 0]  # warm; its third seed is not finished
    assert [at("mean", share, setting) for share, setting in ((0.6, 0), (0.9, 1))] == [1, 1]
    assert [at("before", 0.2, setting) for setting in (0, 1)] == [1, 1]
    lines = [mark.get("d") for mark in tree.iter("{http://www.w3.org/2000/svg}path") if mark.get("class") == "interval"]
    assert lines == ["M190.0 61.0H836.0", "M190.0 95.0H836.0"]  # two seeds: all of [0, 1]
    texts = [text.text for text in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert "cold (n = 2)" in texts and not any("hot" in text for text in texts)
    assert sweep_svg("heat", [("hot", 0, None)]) == ""

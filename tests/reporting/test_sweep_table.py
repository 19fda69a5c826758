"""The table of a sweep from recorded run folders: means over seeds, intervals, pairs by seed, and what is left out."""

import pytest

from jaxrl.evaluation.table import EvaluationResult, Item, Sample
from jaxrl.reporting.page_data import page_data
from jaxrl.reporting.run_folder import read_run, write_evaluation
from jaxrl.reporting.sweep_table import sweep_markdown
from jaxrl.reporting.writers import JsonlWriter


def result(name, right, broken, seed, rule="strict-1"):
    """Ten problems, one greedy answer to each: `right` correct, `broken` of bad format, the others wrong."""
    verdicts = ["correct"] * right + ["bad_format"] * broken + ["wrong_answer"] * (10 - right - broken)
    items = [Item(f"s{seed}-{number}", "p3", "?", "!", False, (Sample(verdict, 20 + right, True, "", ""),), ())
             for number, verdict in enumerate(verdicts)]
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
    return [("cold", 0, run(tmp_path / "c0", 0, 5)), ("cold", 1, run(tmp_path / "c1", 1, 7)),
            ("warm", 0, run(tmp_path / "w0", 0, 8, 1, 30.0)), ("warm", 1, run(tmp_path / "w1", 1, 10, 0, 32.0)),
            ("warm", 2, run(tmp_path / "w2", 2, 9, finished=False)), ("hot", 0, None)]


def row(text, start):
    (line,) = (line for line in text.splitlines() if line.startswith(start))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_means_over_seeds_with_their_interval(outcomes):
    text = sweep_markdown("heat", outcomes)
    assert "## 3 people, greedy (10 problems x 1)" in text
    # .5 and .7: standard deviation sqrt(.02), t 12.706 at one degree of freedom, so .6 +- 1.27, kept within a share.
    assert row(text, "| cold | 2 | 20") == [
        "cold", "2", "20.0% [20.0, 20.0]", "60.0% [0.0, 100.0]", "-", "33.3% -> 60.0%", "40.0% -> 0.0%", "22 -> 26"]
    # Right of the well-formed: 8 of 9 and 10 of 10. Against cold, +3 of 10 with either seed: no spread, no width.
    assert row(text, "| warm | 2 | 20") == [
        "warm", "2", "20.0% [20.0, 20.0]", "90.0% [0.0, 100.0]", "+30.0 [+30.0, +30.0] points", "33.3% -> 94.4%",
        "40.0% -> 5.0%", "22 -> 29"]
    assert "Not comparable" not in text


def test_runs_that_are_not_finished_are_told_and_not_counted(outcomes):
    text = sweep_markdown("heat", outcomes)
    assert row(text, "| warm | 2 of 3") == ["warm", "2 of 3", "2", "1 min 02 s"]
    assert row(text, "| hot |") == ["hot", "0 of 1", "-", "-"]


def test_one_seed_has_no_interval(outcomes):
    assert row(sweep_markdown("heat", [outcomes[0], outcomes[2]]), "| warm | 1 | 20")[2:5] == [
        "20.0%", "80.0%", "+30.0 points"]


def test_settings_that_were_judged_by_other_rules_are_not_comparable(outcomes, tmp_path):
    other = ("lax", 1, run(tmp_path / "lax", 1, 9, rule="answer-only-1"))
    assert "**Not comparable**: with seed 1 " in sweep_markdown("heat", [*outcomes, other])


def test_the_page_names_the_sweep_and_the_run_that_is_told_in_full(outcomes):
    data = page_data([run for _, _, run in outcomes if run], title="heat")
    assert (data["title"], data["subtitle"].split(" · ")[0]) == ("heat", "told in full: c0")
    assert [curves["name"] for curves in data["runs"]] == ["c0", "c1", "w0", "w1", "w2"]

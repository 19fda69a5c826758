"""Losers are stopped by what the run folders hold: all wait for all, and whoever asks later gets the same answer."""

import pytest

from jaxrl.evaluation.results import EvaluationResult, Item, Sample
from jaxrl.reporting.run_folder import write_evaluation
from jaxrl.sweeps.halving import Halving, failure_mark, read_decisions


def evaluate(folder, name, right, step=0):
    """Forty problems with one answer each."""
    items = tuple(
        Item(str(number), "p3", "?", "!", False, (), (Sample(verdict, 9, True, "", ""),))
        for number, verdict in enumerate(["correct"] * right + ["wrong_answer"] * (40 - right))
    )
    write_evaluation(folder, EvaluationResult(name, "model", step, "strict-1", {}, items))


@pytest.fixture
def folders(tmp_path):
    return {name: [tmp_path / f"{name}_seed{seed}" for seed in (0, 1)] for name in ("low", "high")}


def test_nothing_is_decided_before_the_last_run_has_come(folders, tmp_path):
    halving = Halving(tmp_path / "stopped.json", folders, [20, 10])
    runs = [(name, folder) for name, both in folders.items() for folder in both]
    for name, folder in runs:
        assert halving.pause() == 10 and halving.decide() == [] and not halving.holds(name, folder)
        evaluate(folder, "step_000010", 4 if name == "low" else 36)
        assert halving.holds(name, folder)
    assert [(stop.setting, stop.step) for stop in halving.decide()] == [("low", 10)]
    assert halving.decide() == [] and halving.pause() == 20
    again = Halving(tmp_path / "stopped.json", folders, [10, 20])  # another process
    assert again.stops() == halving.stops() and set(again.stops()) == {"low"}
    assert [again.holds(name, folder) for name, folder in runs] == [True, True, False, False]


def test_a_decision_stays_whatever_comes_after_it(folders, tmp_path):
    for name, right in (("low", 4), ("high", 36)):
        for folder in folders[name]:
            evaluate(folder, "step_000010", right)
    halving = Halving(tmp_path / "stopped.json", folders, [10])
    halving.decide()
    for folder in folders["low"]:
        evaluate(folder, "step_000010", 40)
    assert halving.decide() == [] and set(halving.stops()) == {"low"}


def test_who_failed_is_neither_awaited_nor_judged(folders, tmp_path):
    for folder in folders["high"]:
        evaluate(folder, "step_000010", 36)
    halving = Halving(tmp_path / "stopped.json", folders, [10])
    assert halving.decide() == [] and not halving.file.exists()
    mark = failure_mark(folders["low"][1])
    mark.parent.mkdir()
    mark.touch()  # by whichever process saw it
    assert halving.decide() == [] and read_decisions(halving.file) == {10: []}
    assert halving.pause() is None


def test_the_other_seeds_of_who_failed_wait_for_nobody(folders, tmp_path):
    """Nothing may be left to decide where all settings have a run that failed: they would wait for ever."""
    halving = Halving(tmp_path / "stopped.json", folders, [10])
    for both in folders.values():
        evaluate(both[0], "step_000010", 36)
        failure_mark(both[1]).parent.mkdir(exist_ok=True)
        failure_mark(both[1]).touch()
    assert halving.decide() == [] and halving.pause() == 10
    assert not any(halving.holds(name, both[0]) for name, both in folders.items())
    failure_mark(folders["low"][1]).unlink()  # it is made again
    assert halving.holds("low", folders["low"][0]) and not halving.holds("high", folders["high"][0])


def test_a_run_that_ended_before_the_step_is_judged_by_its_end(folders, tmp_path):
    for folder in folders["high"]:
        evaluate(folder, "after", 36, step=7)
    for folder in folders["low"]:
        evaluate(folder, "step_000010", 4)
    assert [stop.setting for stop in Halving(tmp_path / "stopped.json", folders, [10]).decide()] == ["low"]


def test_without_steps_nothing_waits(folders, tmp_path):
    halving = Halving(tmp_path / "stopped.json", folders)
    evaluate(folders["low"][0], "step_000010", 4)
    assert not halving.holds("low", folders["low"][0]) and halving.decide() == []

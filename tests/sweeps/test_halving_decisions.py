"""A setting is stopped only where it is in the worse half and clearly so."""

import pytest

from jaxrl.evaluation.intervals import wilson
from jaxrl.evaluation.results import EvaluationResult, Item, Sample
from jaxrl.sweeps.halving_decisions import losers


def result(right, problems=100):
    """One sampled answer to each problem."""
    samples = [Sample("correct" if number < right else "wrong_answer", 9, True, "", "") for number in range(problems)]
    items = tuple(Item(str(number), "p3", "?", "!", False, (), (sample,)) for number, sample in enumerate(samples))
    return EvaluationResult("step_000010", "model", 10, "strict-1", {}, items)


def stopped(**right):
    return [stop.setting for stop in losers(10, {name: [result(count)] for name, count in right.items()})]


def test_the_worse_half_is_stopped_where_intervals_part():
    assert stopped(a=20, b=90, c=60, d=58) == ["a"]  # c and b stay as the better half; d overlaps with c
    assert stopped(a=20, b=90, c=88, d=30) == ["d", "a"]
    assert stopped(a=90, b=20, c=21) == []  # two of three stay, and b overlaps with c
    assert stopped(a=50) == []


def test_a_stop_tells_what_it_was_held_against():
    (stop,) = losers(10, {"low": [result(10)], "high": [result(90)]})
    assert (stop.setting, stop.step, stop.kept) == ("low", 10, "high")
    assert stop.accuracy == pytest.approx(wilson(10, 100)) and stop.bar == pytest.approx(wilson(90, 100))


def test_seeds_are_taken_together():
    """One good seed and one bad one: 50 of 100 and not 10 of 50, which alone would be stopped."""
    found = {"even": [result(10, 50), result(40, 50)], "best": [result(30, 50), result(31, 50)]}
    assert losers(10, found) == []
    assert [stop.setting for stop in losers(10, {"even": found["even"][:1], "best": found["best"]})] == ["even"]

"""Perturbed problems beside the originals: the measures of arXiv 2410.23123, and how results store them."""

import pytest

from jaxrl.evaluation.evaluate import TextResponse, evaluate_responses
from jaxrl.evaluation.perturbation import perturbation_markdown, perturbation_rows, separate_twins
from jaxrl.evaluation.results import ALL, from_json, markdown, rows, to_json
from jaxrl.rewards import Verdict
from jaxrl.tasks.problem import Problem
from jaxrl.tasks.puzzle_problems import PerturbedProblem

pytestmark = pytest.mark.check

ORIGINALS = [Problem(f"id{i}", "p2" if i < 4 else "p3", f"Q{i}", "", "", False, (), i) for i in range(8)]
# The leaves of problem 7 can't be changed.
TWINS = [
    PerturbedProblem(name, i, ORIGINALS[i]._replace(id=f"{name}{i}"))
    for name, count in (("leaf", 7), ("names", 8))
    for i in range(count)
]


def measure(right, samples=4):
    """right: (id of a problem, sample) -> whether the response is correct."""
    problems = [*ORIGINALS, *(twin.problem for twin in TWINS)]

    def respond(group_size, greedy):
        return [
            TextResponse("yes" if right(problem.id, -1 if greedy else sample) else "no", 3, True)
            for problem in problems
            for sample in range(group_size)
        ]

    def judge(problem, response, truncated):
        return Verdict("correct" if response == "yes" else "wrong_answer", (), 1.0, 1.0, 2.0, "rule-1", ())

    return separate_twins(evaluate_responses(respond, problems, judge=judge, samples=samples), TWINS)


def by_key(result):
    return {(row.kind, row.perturbation, row.mode): row for row in perturbation_rows(result)}


def test_the_measures_of_greedy_responses():
    # p2: originals 0, 1, 2 are correct; leaves 0 and 3 are correct, so only 0 is consistent.
    result = measure(lambda name, sample: name in ("id0", "id1", "id2", "leaf0", "leaf3", "names0", "names1", "names2"))
    row = by_key(result)["p2", "leaf", "greedy"]
    assert (row.original.value, row.perturbed.value, row.difference.value) == (0.75, 0.5, -0.25)
    assert row.consistency.value == pytest.approx(1 / 3)
    assert row.local_inconsistency.value == pytest.approx(0.75 * (1 - 1 / 3))
    names = by_key(result)["p2", "names", "greedy"]
    assert (names.consistency.value, names.local_inconsistency.value, names.difference.value) == (1.0, 0.0, 0.0)


def test_local_inconsistency_is_accuracy_times_one_minus_consistency():
    """With several samples, in expectation over independent responses."""
    result = measure(lambda name, sample: (sum(map(ord, name)) * 7 + 3 * sample) % 5 < 3)
    for row in by_key(result).values():
        expected = row.original.value * (1 - row.consistency.value)
        assert row.local_inconsistency.value == pytest.approx(expected)
        assert row.consistency.low <= row.consistency.value <= row.consistency.high


def test_unperturbed_problems_are_left_out_of_the_pairs_and_counted():
    found = by_key(measure(lambda name, sample: name != "id7"))
    assert (found["p3", "leaf", "greedy"].pairs, found["p3", "leaf", "greedy"].problems) == (3, 4)
    assert found["p3", "leaf", "greedy"].original.value == 1.0
    assert found["p3", "names", "greedy"].original.value == 0.75
    assert found[ALL, "leaf", "sampled"].pairs == 7


def test_without_a_correct_response_the_consistency_is_undefined():
    result = measure(lambda name, sample: name.startswith("leaf"), samples=0)
    row = by_key(result)["p2", "leaf", "greedy"]
    assert row.local_inconsistency.value == 0.0
    table = perturbation_markdown(result)
    assert "| 2 people | leaf | greedy | 4 | 0.0% [0.0, 49.0] | 100.0% [51.0, 100.0] | +100.0 [" in table
    assert "] | - | 0.0% [0.0, 49.0] |" in table
    assert "| 3 people | leaf | greedy | 3 of 4 |" in table


def test_twins_are_stored_and_change_no_other_statistic():
    result = measure(lambda name, sample: name.startswith("id"))
    assert from_json(to_json(result)) == result
    assert [row.accuracy.value for row in rows(result)] == [1.0] * 6
    assert (len(result.items), len(result.twins)) == (8, 15) and "leaf" not in markdown(result)
    old = to_json(result).replace('"twins"', '"unknown"').replace('"published"', '"former"')
    assert from_json(old).twins == () and perturbation_markdown(from_json(old)) == ""

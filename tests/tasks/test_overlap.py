"""Overlap of evaluation and training data is found in spite of other names and another order of people."""

import pytest

from data_gen.canonical import canonical
from jaxrl.tasks.overlap import Overlap, find_overlap, refuse_overlap
from jaxrl.tasks.problem import Problem

pytestmark = pytest.mark.check


def problem(name, statements):
    return Problem(name, "p2", name, "", canonical(statements), False, (), None)


TRAINING = problem("train-1", (("lies", 1), ("and", ("tells-truth", 0), ("lies", 1))))
SAME = problem("test-1", (("and", ("lies", 0), ("tells-truth", 1)), ("lies", 0)))
OTHER = problem("test-2", (("lies", 1), ("or", ("tells-truth", 0), ("lies", 1))))


def test_renamed_and_reordered_puzzles_overlap():
    assert find_overlap([OTHER, SAME], [TRAINING]) == [Overlap("test-1", "train-1")]


def test_overlap_raises_with_both_ids():
    refuse_overlap([OTHER], [TRAINING])
    with pytest.raises(ValueError, match=r"1 evaluation problems .*test-1 equals train-1"):
        refuse_overlap([OTHER, SAME], [TRAINING])

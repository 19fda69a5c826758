"""A problem that was trained on is found whatever its people are called and in whatever order they speak."""

import pytest

from data_gen.canonical import canonical
from jaxrl.tasks.overlap import Overlap, find_overlap, refuse_overlap
from jaxrl.tasks.problem import Problem


def problem(name, statements):
    return Problem(name, "p2", name, "", canonical(statements), False, (), None)


TRAINED = problem("train-1", (("lies", 1), ("and", ("tells-truth", 0), ("lies", 1))))
SAME = problem("test-1", (("and", ("lies", 0), ("tells-truth", 1)), ("lies", 0)))
OTHER = problem("test-2", (("lies", 1), ("or", ("tells-truth", 0), ("lies", 1))))


def test_renamed_and_reordered_puzzles_are_the_same():
    assert find_overlap([OTHER, SAME], [TRAINED]) == [Overlap("test-1", "train-1")]


def test_overlap_is_refused_by_name():
    refuse_overlap([OTHER], [TRAINED])
    with pytest.raises(ValueError, match=r"1 evaluation problems .*test-1 equals train-1"):
        refuse_overlap([OTHER, SAME], [TRAINED])

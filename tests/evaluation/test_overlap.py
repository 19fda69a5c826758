"""A puzzle that was trained on is found whatever its people are called and in whatever order they speak."""

import pytest

from data_gen.puzzle import Puzzle
from jaxrl.evaluation.overlap import Overlap, find_overlap, refuse_overlap


def puzzle(name, names, statements):
    return Puzzle(names, ("knight", "knave"), statements, (True,) * len(names), "", 1, 0, 0, name)


TRAINED = puzzle("train-1", ("Ann", "Bob"), (("lies", 1), ("and", ("tells-truth", 0), ("lies", 1))))
SAME = puzzle("test-1", ("Cy", "Di"), (("and", ("lies", 0), ("tells-truth", 1)), ("lies", 0)))
OTHER = puzzle("test-2", ("Ann", "Bob"), (("lies", 1), ("or", ("tells-truth", 0), ("lies", 1))))


def test_renamed_and_reordered_puzzles_are_the_same():
    assert find_overlap([OTHER, SAME], [TRAINED]) == [Overlap("test-1", "train-1")]


def test_overlap_is_refused_by_name():
    refuse_overlap([OTHER], [TRAINED])
    with pytest.raises(ValueError, match=r"1 evaluation puzzles .*test-1 equals train-1"):
        refuse_overlap([OTHER, SAME], [TRAINED])

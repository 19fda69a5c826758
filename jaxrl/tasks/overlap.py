"""Overlap of evaluation and training data, by the problems' forms: names and wording do not matter."""

from collections.abc import Iterable
from typing import NamedTuple

from jaxrl.tasks.problem import Problem


class Overlap(NamedTuple):
    """Ids of an evaluation problem and of a training problem with the same form."""

    evaluation: str
    training: str


def find_overlap(evaluation: Iterable[Problem], training: Iterable[Problem]) -> list[Overlap]:
    """The evaluation problems whose form is in the training data, in the order of `evaluation`."""
    known = {problem.form: problem.id for problem in training}
    return [Overlap(problem.id, known[problem.form]) for problem in evaluation if problem.form in known]


def refuse_overlap(evaluation: Iterable[Problem], training: Iterable[Problem]) -> None:
    """Raises ValueError with the first pair if any evaluation problem is in the training data."""
    overlap = find_overlap(evaluation, training)
    if overlap:
        raise ValueError(
            f"{len(overlap)} evaluation problems equal training problems up to names and wording (first: "
            f"{overlap[0].evaluation} equals {overlap[0].training}); set another seed or other splits."
        )

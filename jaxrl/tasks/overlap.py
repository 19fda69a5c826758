"""Is an evaluation problem known from training? Told by its form: names and wording don't matter."""

from collections.abc import Iterable
from typing import NamedTuple

from jaxrl.tasks.problem import Problem


class Overlap(NamedTuple):
    """An evaluation problem and the training problem of the same form."""

    evaluation: str
    training: str


def find_overlap(evaluation: Iterable[Problem], training: Iterable[Problem]) -> list[Overlap]:
    """Every evaluation problem whose form is in the training data, in the evaluation's order."""
    known = {problem.form: problem.id for problem in training}
    return [Overlap(problem.id, known[problem.form]) for problem in evaluation if problem.form in known]


def refuse_overlap(evaluation: Iterable[Problem], training: Iterable[Problem]) -> None:
    """Raises ValueError, naming the first pair, if any evaluation problem was trained on."""
    shared = find_overlap(evaluation, training)
    if shared:
        raise ValueError(
            f"{len(shared)} evaluation problems equal training problems up to names and wording (first: "
            f"{shared[0].evaluation} equals {shared[0].training}); take another seed or other splits."
        )

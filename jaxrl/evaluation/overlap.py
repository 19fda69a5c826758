"""Is an evaluation puzzle known from training? Told by canonical form: names and wording don't matter."""

from collections.abc import Iterable
from typing import NamedTuple

from data_gen.canonical import canonical
from data_gen.puzzle import Puzzle


class Overlap(NamedTuple):
    """An evaluation puzzle and the training puzzle that it equals up to renaming."""

    evaluation: str
    training: str


def find_overlap(evaluation: Iterable[Puzzle], training: Iterable[Puzzle]) -> list[Overlap]:
    """Every evaluation puzzle whose canonical form is in the training data, in the evaluation's order."""
    known = {canonical(puzzle.statements): puzzle.id for puzzle in training}
    forms = ((puzzle.id, canonical(puzzle.statements)) for puzzle in evaluation)
    return [Overlap(name, known[form]) for name, form in forms if form in known]


def refuse_overlap(evaluation: Iterable[Puzzle], training: Iterable[Puzzle]) -> None:
    """Raises ValueError, naming the first pair, if any evaluation puzzle was trained on."""
    shared = find_overlap(evaluation, training)
    if shared:
        raise ValueError(
            f"{len(shared)} evaluation puzzles equal training puzzles up to renaming (first: "
            f"{shared[0].evaluation} equals {shared[0].training}); take another seed, or generate them with "
            "the training set excluded"
        )

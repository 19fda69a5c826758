"""A problem of any task, as evaluation, rollouts and reports use it."""

import re
from typing import Any, NamedTuple


class Problem(NamedTuple):
    """A question with its solution. Problems with equal `form` are the same problem in other words."""

    id: str
    kind: str  # its pool: "p3" for puzzles of three people, otherwise the name of a file or dataset
    question: str  # as shown in reports, without the instruction
    solution: str  # as shown in reports
    form: str  # no form may be in two splits; for example a puzzle's canonical form
    constant_answer_right: bool  # whether the task's constant answer ("everybody tells the truth") is correct
    names: tuple[str, ...]  # names in the question; not counted as a change of language
    content: Any  # used only by the task
    published: bool = False  # published accuracies of other models are for problems of this distribution


def kind_label(kind: str) -> str:
    """A kind as shown in tables: "p3" is "3 people"."""
    people = re.fullmatch(r"p(\d+)", kind)
    return f"{people[1]} people" if people else kind


def kind_order(kind: str) -> tuple[int, str]:
    """A sort key: p2 before p10, then other kinds by name."""
    people = re.fullmatch(r"p(\d+)", kind)
    return (int(people[1]), "") if people else (10**6, kind)

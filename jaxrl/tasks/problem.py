"""A question of any task, as evaluation, rollouts and reports see it."""

import re
from typing import Any, NamedTuple


class Problem(NamedTuple):
    """One question with its solution. Two problems of one `form` are the same task in other words."""

    id: str
    kind: str  # the pool it comes from: "p3" for puzzles of three people, else a file's or dataset's name
    question: str  # as reports show it, without the instruction
    solution: str  # what is right, in words
    form: str  # what must not stand in two splits, such as a puzzle's canonical form
    constant_answer_right: bool  # solved by the task's answer that looks at nothing ("everybody tells the truth")
    names: tuple[str, ...]  # names in the question, no sign of a foreign language
    content: Any  # what the task's own judge needs


def kind_label(kind: str) -> str:
    """A kind as tables show it: "p3" is "3 people"."""
    people = re.fullmatch(r"p(\d+)", kind)
    return f"{people[1]} people" if people else kind


def kind_order(kind: str) -> tuple[int, str]:
    """Sorts p2 before p10, and other kinds by name after them."""
    people = re.fullmatch(r"p(\d+)", kind)
    return (int(people[1]), "") if people else (10**6, kind)

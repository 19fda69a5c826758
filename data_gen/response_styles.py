"""Ways of answering a puzzle, written out as text: what the embedded base model is taught before any reinforcement.

The base plays the article's base model in miniature. It knows a careful way (try a case, check every statement, go
back when one does not fit) but has other habits too: guessing, stopping after the first checks, and broken formats.
Nothing here is seen by reinforcement learning, which knows only prompts and rules.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from data_gen.puzzle import Puzzle
from data_gen.solve import holds

WAYS = ("guess", "first-fit", "half-checked", "careful")
FORMATS = ("right", "no-tags", "boxed", "markdown", "thinking-again")

_GUESSED = "I will go with that."
_STOPPED = "That will do."
_VERIFIED = "All fit."


@dataclasses.dataclass(frozen=True)
class HabitSpec:
    """Shares of each way and of each format, by name; they need not sum to one."""

    ways: tuple[tuple[str, float], ...]
    formats: tuple[tuple[str, float], ...] = (("right", 1.0),)

    def __post_init__(self):
        for field, known in (("ways", WAYS), ("formats", FORMATS)):
            table = getattr(self, field)
            for name, weight in table:
                if name not in known:
                    raise ValueError(f"{field} must be among {known}, got {name!r}.")
                if weight < 0:
                    raise ValueError(f"the weight of {name!r} in {field} must not be negative, got {weight}.")
            if sum(weight for _, weight in table) <= 0:
                raise ValueError(f"{field} needs at least one weight above zero, got {dict(table)}.")


def write_response(puzzle: Puzzle, spec: HabitSpec, generator: np.random.Generator) -> str:
    """One response to the puzzle, its way and format drawn by the shares of `spec`."""
    way = _draw(spec.ways, generator)
    form = _draw(spec.formats, generator)
    thinking, case = think(puzzle, way, generator)
    answer = answer_text(puzzle, case)
    if form == "no-tags":
        return f"{thinking} So {answer}"
    if form == "boxed":
        return f"<think>{thinking}</think>\nThe answer: \\boxed{{{answer}}}"
    if form == "markdown":
        return f"**Thoughts** {thinking}\n**Answer** {answer}"
    response = f"<think>{thinking}</think>\n<answer>{answer}</answer>"
    if form == "thinking-again":
        second, case = think(puzzle, "guess", generator)
        response += f"\n<think>Or not. {second}</think>\n<answer>{answer_text(puzzle, case)}</answer>"
    return response


def think(puzzle: Puzzle, way: str, generator: np.random.Generator) -> tuple[str, tuple[bool, ...]]:
    """The thinking of one way, and the case (True = tells the truth) it ends with."""
    if way == "guess":
        case = tuple(bool(bit) for bit in generator.integers(2, size=len(puzzle.names)))
        moods = ", ".join(
            f"{name} sounds {'honest' if truthful else 'sly'}"
            for name, truthful in zip(puzzle.names, case, strict=True)
        )
        return f"{moods}. {_GUESSED}", case
    checked = {"first-fit": 1, "half-checked": 2, "careful": len(puzzle.names)}[way]
    checked = min(checked, len(puzzle.names))
    lines = []
    for case in _cases(len(puzzle.names)):
        lines.append(f"{'Wait, try' if lines else 'Try'} {_case_text(puzzle, case)}.")
        if _check(puzzle, case, checked, lines):
            lines.append(_VERIFIED if checked == len(puzzle.names) else _STOPPED)
            return " ".join(lines), case
    raise ValueError(f"puzzle {puzzle.id!r} has no solution; generate it with data_gen.generate.")


def classify_style(response: str) -> str:
    """The way that a response of the embedded model followed: 'guess', 'unchecked', 'careful' or 'other'."""
    if _VERIFIED in response:
        return "careful"
    if _STOPPED in response:
        return "unchecked"
    return "guess" if _GUESSED in response else "other"


def answer_text(puzzle: Puzzle, case: Sequence[bool]) -> str:
    """Who is what, in one sentence."""
    parts = (f"{name} is a {puzzle.roles[not truthful]}" for name, truthful in zip(puzzle.names, case, strict=True))
    return ", ".join(parts) + "."


def _draw(table: tuple[tuple[str, float], ...], generator: np.random.Generator) -> str:
    weights = np.array([weight for _, weight in table])
    edges = np.cumsum(weights / weights.sum())
    return table[min(int(np.searchsorted(edges, generator.random(), side="right")), len(table) - 1)][0]


def _cases(people: int) -> Iterator[tuple[bool, ...]]:
    """Every case in a fixed order: everybody truthful first, the last person changing fastest."""
    return itertools.product((True, False), repeat=people)


def _case_text(puzzle: Puzzle, case: Sequence[bool]) -> str:
    # One word says who and what: a person's role is then found by looking for a single token. See LOG.md.
    pairs = zip(puzzle.names, case, strict=True)
    return " ".join(name.upper() if truthful else name.lower() for name, truthful in pairs)


def _check(puzzle: Puzzle, case: tuple[bool, ...], checked: int, lines: list[str]) -> bool:
    """Check the first statements against the case, a sentence each; stop at the first that does not fit."""
    for speaker, statement in list(enumerate(puzzle.statements))[:checked]:
        true = holds(statement, case)
        fits = true == case[speaker]
        text = _appraise(puzzle, statement, case)
        lines.append(f"{puzzle.names[speaker]}: {text} so {str(true).lower()} {'ok' if fits else 'bad'}.")
        if not fits:
            return False
    return True


def _appraise(puzzle: Puzzle, statement: tuple, case: tuple[bool, ...], inner: bool = False) -> str:
    """A statement said again, each leaf with the person's role in this case, the role that is claimed, and yes or no.

    Saying the role first matters: a small model copies it easily, and then only compares two words. Asked for yes or
    no at once it has to look up and compare in one step, and stays at guessing (see LOG.md).
    """
    kind, *parts = statement
    if kind in ("tells-truth", "lies"):
        person = parts[0]
        held, claimed = puzzle.roles[not case[person]], puzzle.roles[kind == "lies"]
        return f"{puzzle.names[person]}={held} {claimed} {'yes' if held == claimed else 'no'}"
    texts = [_appraise(puzzle, part, case, inner=True) for part in parts]
    if kind == "not":
        text = f"not {texts[0]}"
    elif kind == "implies":
        text = f"if {texts[0]} then {texts[1]}"
    else:
        text = f" {kind} ".join(texts)
    return f"({text})" if inner else text

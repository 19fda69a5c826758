"""Puzzle responses in several styles and formats: the corpus of the embedded base model.

The base model is a miniature of a pretrained model. It can solve puzzles carefully (try a case, check every statement,
backtrack when one does not hold), but often guesses, stops after the first checks or breaks the format. Reinforcement
learning never sees these texts, only prompts and rewards.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from data_gen.puzzle import Puzzle
from data_gen.solve import holds

STYLES = ("guess", "first-fit", "half-checked", "careful")
FORMATS = ("right", "no-tags", "boxed", "markdown", "thinking-again")

_GUESSED = "I will go with that."
_STOPPED = "That will do."
_VERIFIED = "All fit."


@dataclasses.dataclass(frozen=True)
class ResponseSpec:
    """(name, weight) of each response style and each format. Weights need not sum to 1."""

    styles: tuple[tuple[str, float], ...]
    formats: tuple[tuple[str, float], ...] = (("right", 1.0),)

    def __post_init__(self):
        for field, known in (("styles", STYLES), ("formats", FORMATS)):
            table = getattr(self, field)
            for name, weight in table:
                if name not in known:
                    raise ValueError(f"{field}: expected names out of {', '.join(known)}, got {name!r}.")
                if weight < 0:
                    raise ValueError(f"{field}: expected a weight of 0 or more for {name!r}, got {weight}.")
            if sum(weight for _, weight in table) <= 0:
                raise ValueError(f"{field}: expected at least one weight above 0, got {dict(table)}.")


def write_response(puzzle: Puzzle, spec: ResponseSpec, generator: np.random.Generator) -> str:
    """A response to the puzzle; its style and format are sampled with the weights of `spec`."""
    style = _sample(spec.styles, generator)
    form = _sample(spec.formats, generator)
    thinking, case = think(puzzle, style, generator)
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


def think(puzzle: Puzzle, style: str, generator: np.random.Generator) -> tuple[str, tuple[bool, ...]]:
    """The thinking in a style, and the case that it concludes with (True: tells the truth, by person)."""
    if style == "guess":
        case = tuple(bool(bit) for bit in generator.integers(2, size=len(puzzle.names)))
        moods = ", ".join(
            f"{name} sounds {'honest' if truthful else 'sly'}"
            for name, truthful in zip(puzzle.names, case, strict=True)
        )
        return f"{moods}. {_GUESSED}", case
    checked = {"first-fit": 1, "half-checked": 2, "careful": len(puzzle.names)}[style]
    checked = min(checked, len(puzzle.names))
    lines = []
    for case in _cases(len(puzzle.names)):
        lines.append(f"{'Wait, try' if lines else 'Try'} {_case_text(puzzle, case)}.")
        if _check(puzzle, case, checked, lines):
            lines.append(_VERIFIED if checked == len(puzzle.names) else _STOPPED)
            return " ".join(lines), case
    raise ValueError(f"puzzle {puzzle.id!r} has no solution; generate it with data_gen.generate.")


def classify_style(response: str) -> str:
    """The style of a response of the embedded model: "guess", "unchecked", "careful" or "other"."""
    if _VERIFIED in response:
        return "careful"
    if _STOPPED in response:
        return "unchecked"
    return "guess" if _GUESSED in response else "other"


def answer_text(puzzle: Puzzle, case: Sequence[bool]) -> str:
    """Every person's role, in one sentence."""
    parts = (f"{name} is a {puzzle.roles[not truthful]}" for name, truthful in zip(puzzle.names, case, strict=True))
    return ", ".join(parts) + "."


def _sample(table: tuple[tuple[str, float], ...], generator: np.random.Generator) -> str:
    weights = np.array([weight for _, weight in table])
    edges = np.cumsum(weights / weights.sum())
    return table[min(int(np.searchsorted(edges, generator.random(), side="right")), len(table) - 1)][0]


def _cases(people: int) -> Iterator[tuple[bool, ...]]:
    """All cases in a fixed order: first everybody truthful; the last person changes fastest."""
    return itertools.product((True, False), repeat=people)


def _case_text(puzzle: Puzzle, case: Sequence[bool]) -> str:
    # The case of the name encodes the role, so the model looks up a person's role by finding a single token.
    pairs = zip(puzzle.names, case, strict=True)
    return " ".join(name.upper() if truthful else name.lower() for name, truthful in pairs)


def _check(puzzle: Puzzle, case: tuple[bool, ...], checked: int, lines: list[str]) -> bool:
    """Check the first `checked` statements against the case, a sentence each; stop at the first contradiction."""
    for speaker, statement in list(enumerate(puzzle.statements))[:checked]:
        true = holds(statement, case)
        fits = true == case[speaker]
        text = _check_text(puzzle, statement, case)
        lines.append(f"{puzzle.names[speaker]}: {text} so {str(true).lower()} {'ok' if fits else 'bad'}.")
        if not fits:
            return False
    return True


def _check_text(puzzle: Puzzle, statement: tuple, case: tuple[bool, ...], inner: bool = False) -> str:
    """A statement evaluated in the case: for each leaf the person's role, the claimed role, and yes or no.

    Writing the role first helps a small model: it copies the role, then compares two words. Without it the model must
    look up and compare in one step, and does not learn more than guessing.
    """
    kind, *parts = statement
    if kind in ("tells-truth", "lies"):
        person = parts[0]
        held, claimed = puzzle.roles[not case[person]], puzzle.roles[kind == "lies"]
        return f"{puzzle.names[person]}={held} {claimed} {'yes' if held == claimed else 'no'}"
    texts = [_check_text(puzzle, part, case, inner=True) for part in parts]
    if kind == "not":
        text = f"not {texts[0]}"
    elif kind == "implies":
        text = f"if {texts[0]} then {texts[1]}"
    else:
        text = f" {kind} ".join(texts)
    return f"({text})" if inner else text

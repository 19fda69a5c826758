"""Verifies the written reasoning of a response: every case, every check, every conclusion, and the answer.

The format is that of `data_gen.response_styles`. The verifier does not use its writer: it parses the text.
"""

import itertools
import re
from collections.abc import Sequence

from data_gen.puzzle import LEAVES, Puzzle, Statement
from data_gen.solve import holds

_CASE = re.compile(r"(Wait, try|Try) (.*)\.")
_CHECK = re.compile(r"([^:.]+): (.*) so (\w+) (\w+)\.")
_FITS = "All fit."
_EVALUATION = re.compile(r"=\S+|\b(?:yes|no)\b")  # what a check adds to the statement: roles that people have, verdicts
_COMPARISON = re.compile(r"\b(?:yes|no)\b")

Span = tuple[int, int]


class _WrongStep(Exception):
    """The first wrong step: the kind of error and the characters of the response."""

    def __init__(self, error: str, span: Span):
        super().__init__(error)
        self.error, self.span = error, span


class _Sentences:
    """The sentences of the thinking part, read one by one."""

    def __init__(self, response: str):
        start = len("<think>") if response.startswith("<think>") else 0
        self.end = response.find("</think>")
        self.closed = self.end >= 0
        self.end = self.end if self.closed else len(response)
        self._matches = re.finditer(r"[^.]*\.|[^.]+", response[start : self.end])
        self._start, self._separator = start, ""
        self.span: Span = (0, self.end)  # of the last sentence read; everything if there is none

    def read(self) -> str:
        """The next sentence, without the space before it. "" at the end."""
        match = next(self._matches, None)
        if match is None:
            return ""
        text = match[0].removeprefix(self._separator)
        self._separator = " "
        self.span = (self._start + match.end() - len(text), self._start + match.end())
        return text

    def expect(self, text: str, error: str) -> None:
        """Read a sentence. Raises _WrongStep unless it is `text`."""
        if (found := self.read()) != text:
            raise self.wrong(error if found else "ends before the conclusion")

    def wrong(self, error: str) -> _WrongStep:
        """The last sentence as the first wrong step."""
        return _WrongStep(error, self.span)


def check_reasoning(puzzle: Puzzle, response: str) -> tuple[bool, str, Span]:
    """Whether the reasoning is sound, the kind of its first error, and the characters of the first wrong step.

    Sound: the cases are tried in order, all people named; each check quotes the statement, compares the right roles and
    draws the right conclusion; the search ends at the first case in which all statements fit; the answer is this case.
    A right answer without this is not sound. The error is "" and the span (0, 0) if the reasoning is sound.
    """
    sentences = _Sentences(response)
    try:
        case = _check_search(puzzle, sentences)
        if sentences.read():
            raise sentences.wrong("continues after the conclusion")
        _check_answer(puzzle, case, response, sentences)
    except _WrongStep as step:
        return False, step.error, step.span
    return True, "", (0, 0)


def _check_search(puzzle: Puzzle, sentences: _Sentences) -> tuple[bool, ...]:
    """Verify the search. Returns the case that it ends with."""
    for number, case in enumerate(itertools.product((True, False), repeat=len(puzzle.names))):
        _check_case(puzzle, case, number == 0, sentences)
        if all(_check_statement(puzzle, speaker, case, sentences) for speaker in range(len(puzzle.names))):
            sentences.expect(_FITS, "conclusion: missing")
            return case
    raise ValueError(f"puzzle {puzzle.id!r} has no solution; generate it with data_gen.generate.")


def _check_case(puzzle: Puzzle, case: Sequence[bool], is_first: bool, sentences: _Sentences) -> None:
    names = [name.upper() if honest else name.lower() for name, honest in zip(puzzle.names, case, strict=True)]
    text = sentences.read()
    if text == f"{'Try' if is_first else 'Wait, try'} {' '.join(names)}.":
        return
    match = _CASE.fullmatch(text)
    if not match:
        ending = "no case tried" if is_first else "search: no new case after a contradiction"
        raise sentences.wrong(ending if text or is_first else "ends before the conclusion")
    if match[2].lower().split(" ") != [name.lower() for name in names]:
        raise sentences.wrong("case: people left out or added")
    raise sentences.wrong("case: not the next one")


def _check_statement(puzzle: Puzzle, speaker: int, case: tuple[bool, ...], sentences: _Sentences) -> bool:
    """Verify the check of a statement in a case. Returns whether it fits the role of its speaker."""
    name, statement = puzzle.names[speaker], puzzle.statements[speaker]
    is_true = holds(statement, case)
    fits = is_true == case[speaker]
    evaluated = _evaluated(puzzle, statement, case)
    text, truth, conclusion = sentences.read(), str(is_true).lower(), "ok" if fits else "bad"
    if text == f"{name}: {evaluated} so {truth} {conclusion}.":
        return fits
    match = _CHECK.fullmatch(text)
    if not text:
        raise sentences.wrong("ends before the conclusion")
    if not match:
        early = text == _FITS or _CASE.fullmatch(text) or text == "That will do."
        raise sentences.wrong("search: ends a case before all are checked" if early else "check: not readable")
    if match[1] != name:
        raise sentences.wrong("check: wrong speaker")
    if match[2] != evaluated:
        raise sentences.wrong(_difference(match[2], evaluated))
    raise sentences.wrong("check: wrong truth value" if match[3] != truth else "check: wrong conclusion")


def _difference(found: str, expected: str) -> str:
    """How the evaluated statement of a check differs from the right one."""
    if _EVALUATION.sub("", found) != _EVALUATION.sub("", expected):
        return "check: wrong statement"
    if _COMPARISON.sub("", found) != _COMPARISON.sub("", expected):
        return "check: wrong role"
    return "check: wrong comparison"


def _evaluated(puzzle: Puzzle, statement: Statement, case: Sequence[bool], is_inner: bool = False) -> str:
    """The statement with the role of each person in the case, the claimed role, and whether they are equal."""
    kind, *parts = statement
    if kind in LEAVES:
        held, claimed = puzzle.roles[not case[parts[0]]], puzzle.roles[kind == "lies"]
        return f"{puzzle.names[parts[0]]}={held} {claimed} {'yes' if held == claimed else 'no'}"
    texts = [_evaluated(puzzle, part, case, is_inner=True) for part in parts]
    if kind == "not":
        text = f"not {texts[0]}"
    else:
        text = f"if {texts[0]} then {texts[1]}" if kind == "implies" else f" {kind} ".join(texts)
    return f"({text})" if is_inner else text


def _check_answer(puzzle: Puzzle, case: Sequence[bool], response: str, sentences: _Sentences) -> None:
    """Verify that the answer, and nothing else, follows the thinking."""
    start = sentences.end + len("</think>\n<answer>")
    end = response.find("</answer>", start)
    if not sentences.closed or response[sentences.end : start] != "</think>\n<answer>" or end < 0:
        rest = (sentences.end, len(response))
        raise _WrongStep("answer: missing", rest if sentences.closed else sentences.span)
    roles = (f"{name} is a {puzzle.roles[not honest]}" for name, honest in zip(puzzle.names, case, strict=True))
    if response[start:end] != ", ".join(roles) + ".":
        raise _WrongStep("answer: not the case found", (start, end))
    if end + len("</answer>") < len(response):
        raise _WrongStep("continues after the answer", (end + len("</answer>"), len(response)))

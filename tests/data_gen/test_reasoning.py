"""Every careful response of the writer is sound; every change of one word is found, where it is."""

import re

import numpy as np
import pytest

from data_gen.generate import generate
from data_gen.reasoning import check_reasoning
from data_gen.response_styles import ResponseSpec, think, write_response
from data_gen.spec import PuzzleSpec

pytestmark = pytest.mark.check

PUZZLES = [
    *generate(PuzzleSpec(2, depth=1, wording="plain"), 3, 10),
    *generate(PuzzleSpec(3, depth=2, wording="plain"), 3, 30),
    *generate(PuzzleSpec(5, depth=2, wording="plain"), 3, 10),
]
WORDS = re.compile(r"\w+|[^\w\s]")


def written(puzzle, style="careful", form="right"):
    spec = ResponseSpec(((style, 1.0),), ((form, 1.0),))
    return write_response(puzzle, spec, np.random.default_rng(4))


@pytest.mark.parametrize("puzzle", PUZZLES, ids=lambda puzzle: puzzle.id)
def test_careful_responses_are_sound(puzzle):
    assert check_reasoning(puzzle, written(puzzle)) == (True, "", (0, 0))


@pytest.mark.parametrize("puzzle", PUZZLES, ids=lambda puzzle: puzzle.id)
def test_a_change_of_one_word_is_found_where_it_is(puzzle):
    """Any word or sign of the reasoning or the answer, replaced by another one or left out."""
    text, generator = written(puzzle), np.random.default_rng(5)
    inner = re.compile(r"<think>(.*)</think>\n<answer>(.*)</answer>").fullmatch(text)
    words = [word for part in (1, 2) for word in WORDS.finditer(text, *inner.span(part))]
    vocabulary = sorted({word[0] for word in words})
    for index in generator.permutation(len(words))[:120]:
        word = words[index]
        others = [other for other in vocabulary if other != word[0]]
        for new in (others[generator.integers(len(others))], ""):
            changed = text[: word.start()] + new + text[word.end() :]
            sound, error, (start, end) = check_reasoning(puzzle, changed)
            assert not sound
            assert error
            assert start <= word.start() <= end, (word, new, error)
            assert changed[start:end].count(".") <= 2  # a step, not the whole text


def test_only_verified_responses_are_sound():
    """A right guess, and a right first fit, are right by chance."""
    for puzzle in PUZZLES:
        assert check_reasoning(puzzle, written(puzzle, "guess"))[:2] == (False, "no case tried")
        for style in ("first-fit", "half-checked")[: len(puzzle.names) - 1]:  # these check one and two statements
            found = check_reasoning(puzzle, written(puzzle, style))
            assert found[:2] == (False, "search: ends a case before all are checked")


@pytest.fixture(scope="module")
def puzzle():
    """A puzzle with a search of several cases."""
    return next(puzzle for puzzle in PUZZLES if written(puzzle).count("try") > 2 and len(puzzle.names) == 3)


def test_each_kind_of_error_has_a_name(puzzle):
    text = written(puzzle)
    name, first = puzzle.names[0], puzzle.names[0].upper()
    last, last_role = puzzle.names[-1], puzzle.roles[not puzzle.solution[-1]]
    other = puzzle.roles[puzzle.solution[-1]]
    cases = {
        "case: people left out or added": (f"Try {first} ", "Try "),
        "case: not the next one": (f"Try {first} ", f"Try {first.lower()} "),
        "check: wrong speaker": (f". {name}: ", f". {last}: "),
        "check: not readable": (f". {name}: ", f". {name} "),
        "conclusion: missing": (" All fit.</think>", " That will do.</think>"),
        "ends before the conclusion": (" All fit.</think>", "</think>"),
        "continues after the conclusion": (" All fit.</think>", " All fit. Done.</think>"),
        "answer: not the case found": (f"{last} is a {last_role}", f"{last} is a {other}"),
        "answer: missing": ("<answer>", ""),
        "continues after the answer": ("</answer>", "</answer> Hm"),
        "no case tried": ("<think>Try", "<think>Let me try"),
    }
    for error, change in cases.items():
        changed = text.replace(*change, 1)
        assert changed != text
        assert check_reasoning(puzzle, changed)[1] == error


@pytest.mark.parametrize(
    ("pattern", "new", "error"),
    [
        (r"(\w+)=(\w+)", r"\1=liar", "check: wrong role"),
        (r" (yes|no)( so|\))", r" maybe\2", "check: wrong statement"),
        (r"so (true|false)", "so both", "check: wrong truth value"),
        (r"(true|false) (ok|bad)", r"\1 fine", "check: wrong conclusion"),
        (r"bad\. Wait, try [^.]*\.", "bad. All fit.", "search: no new case after a contradiction"),
    ],
)
def test_errors_of_a_check(puzzle, pattern, new, error):
    assert check_reasoning(puzzle, re.sub(pattern, new, written(puzzle), count=1))[1] == error


def test_a_wrong_comparison_is_named(puzzle):
    swapped = re.sub(r"\b(yes|no)\b", lambda found: {"yes": "no", "no": "yes"}[found[0]], written(puzzle), count=1)
    assert check_reasoning(puzzle, swapped)[1] == "check: wrong comparison"


def test_truncated_and_empty_responses_are_not_sound(puzzle):
    text = written(puzzle)
    for end in range(len(text)):
        assert not check_reasoning(puzzle, text[:end])[0]
    assert check_reasoning(puzzle, "") == (False, "no case tried", (0, 0))


def test_other_formats_are_not_sound(puzzle):
    for form in ("no-tags", "boxed", "markdown", "thinking-again"):
        assert not check_reasoning(puzzle, written(puzzle, form=form))[0]


def test_the_prompt_may_open_the_thinking(puzzle):
    assert check_reasoning(puzzle, written(puzzle).removeprefix("<think>"))[0]


def test_reasoning_about_another_puzzle_is_not_sound():
    first, second = PUZZLES[10:12]
    thinking, _ = think(first, "careful", np.random.default_rng(0))
    assert not check_reasoning(second, f"<think>{thinking}</think>\n<answer></answer>")[0]

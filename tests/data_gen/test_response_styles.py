"""Response styles: conclusions are as the style implies, and rules judge each format as intended."""

import numpy as np
import pytest

from data_gen.generate import generate
from data_gen.response_styles import FORMATS, STYLES, ResponseSpec, classify_style, think, write_response
from data_gen.spec import PuzzleSpec
from jaxrl.rewards import score

pytestmark = pytest.mark.check

PUZZLES = list(generate(PuzzleSpec(3, depth=1, wording="plain"), 5, 60))
DEEP = list(generate(PuzzleSpec(4, depth=3, wording="plain"), 5, 20))


def verdict_of(puzzle, response):
    return score(
        response, quiz=puzzle.quiz, people=puzzle.people, roles=puzzle.roles, prompt_opens_think=False, truncated=False
    )


@pytest.mark.parametrize("puzzle", PUZZLES + DEEP, ids=lambda puzzle: puzzle.id)
def test_careful_responses_are_correct_and_well_formed(puzzle):
    response = write_response(puzzle, ResponseSpec((("careful", 1.0),)), np.random.default_rng(0))
    assert verdict_of(puzzle, response).verdict == "correct"
    assert classify_style(response) == "careful"


def test_a_guess_is_independent_of_the_solution():
    """A guess is right with probability 2^-3 on puzzles of three people."""
    generator = np.random.default_rng(1)
    right = [think(puzzle, "guess", generator)[1] == puzzle.solution for puzzle in PUZZLES for _ in range(50)]
    assert np.mean(right) == pytest.approx(1 / 8, abs=0.03)


def test_styles_that_check_more_statements_are_right_more_often():
    shares = [
        np.mean([think(puzzle, style, np.random.default_rng(0))[1] == puzzle.solution for puzzle in PUZZLES])
        for style in ("first-fit", "half-checked", "careful")
    ]
    assert shares[0] < shares[1] < shares[2] == 1


def test_only_the_right_format_is_accepted():
    generator = np.random.default_rng(2)
    for form in FORMATS:
        for style in STYLES:
            response = write_response(PUZZLES[0], ResponseSpec(((style, 1.0),), ((form, 1.0),)), generator)
            assert (verdict_of(PUZZLES[0], response).verdict == "bad_format") == (form != "right"), (form, style)


def test_unknown_names_and_zero_weights_raise():
    with pytest.raises(ValueError, match="styles: expected names out of guess"):
        ResponseSpec((("carefully", 1.0),))
    with pytest.raises(ValueError, match="at least one weight above 0"):
        ResponseSpec((("careful", 0.0),))

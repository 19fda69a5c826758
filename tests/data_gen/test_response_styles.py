"""The taught ways: what they end with is what their name promises, and the rule reads them as meant."""

import numpy as np
import pytest

from data_gen.generate import PuzzleSpec, generate
from data_gen.response_styles import FORMATS, WAYS, HabitSpec, think, classify_style, write_response
from jaxrl.rewards import score

PUZZLES = list(generate(PuzzleSpec(3, depth=1, wording="plain"), 5, 60))
DEEP = list(generate(PuzzleSpec(4, depth=3, wording="plain"), 5, 20))


def verdict_of(puzzle, response):
    return score(
        response, quiz=puzzle.quiz, people=puzzle.people, roles=puzzle.roles, prompt_opens_think=False, truncated=False
    )


@pytest.mark.parametrize("puzzle", PUZZLES + DEEP, ids=lambda puzzle: puzzle.id)
def test_the_careful_way_is_right_and_well_formed(puzzle):
    response = write_response(puzzle, HabitSpec((("careful", 1.0),)), np.random.default_rng(0))
    assert verdict_of(puzzle, response).verdict == "correct"
    assert classify_style(response) == "careful"


def test_the_guess_leaves_no_trace_of_the_solution():
    """Over many puzzles a guess is right once in 2^3 times: the text that is taught knows nothing of the answer."""
    generator = np.random.default_rng(1)
    right = [think(puzzle, "guess", generator)[1] == puzzle.solution for puzzle in PUZZLES for _ in range(50)]
    assert np.mean(right) == pytest.approx(1 / 8, abs=0.03)


def test_unchecked_ways_are_right_more_often_the_more_they_check():
    shares = [
        np.mean([think(puzzle, way, np.random.default_rng(0))[1] == puzzle.solution for puzzle in PUZZLES])
        for way in ("first-fit", "half-checked", "careful")
    ]
    assert shares[0] < shares[1] < shares[2] == 1


def test_every_broken_format_is_refused_and_the_right_one_is_not():
    generator = np.random.default_rng(2)
    for form in FORMATS:
        for way in WAYS:
            response = write_response(PUZZLES[0], HabitSpec(((way, 1.0),), ((form, 1.0),)), generator)
            assert (verdict_of(PUZZLES[0], response).verdict == "bad_format") == (form != "right"), (form, way)


def test_unknown_names_and_empty_tables_are_refused():
    with pytest.raises(ValueError, match="ways must be among"):
        HabitSpec((("carefully", 1.0),))
    with pytest.raises(ValueError, match="at least one weight above zero"):
        HabitSpec((("careful", 0.0),))

"""Stop strings against a plain search from the start, whatever the cuts into tokens and looks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrl.sampling import StopStrings

PIECES = ["a", "b", "ab", "ba", "", "</", "answer", ">", "é", "\ufffd"]
STRINGS = ("</answer>", "abab", "éa")


def decode(tokens):
    return "".join(PIECES[token] for token in tokens)


@given(st.lists(st.integers(0, len(PIECES) - 1), max_size=60), st.lists(st.integers(1, 9), min_size=1))
def test_a_search_in_parts_finds_what_a_search_from_the_start_finds(tokens, parts):
    stop = StopStrings(STRINGS, decode)
    ends = [n for n in range(1, len(tokens) + 1) if any(string in decode(tokens[:n]) for string in STRINGS)]
    searched, found, turn = 0, None, 0
    while found is None and searched < len(tokens):
        seen = min(searched + parts[turn % len(parts)], len(tokens))
        found = stop.end(tokens[:seen], searched)
        searched, turn = seen, turn + 1
    assert found == (ends[0] if ends else None)


def test_a_string_goes_on_after_many_tokens_without_text():
    """As padded rows of a vocabulary are."""
    for gap in (2, 50):
        tokens = [0, *[PIECES.index("")] * gap, 1]
        assert StopStrings(("ab",), decode).end(tokens, gap + 1) == gap + 2


def test_text_is_cut_before_the_first_string():
    stop = StopStrings(("</answer>", "User:"), decode)
    assert stop.cut("yes</answer> User: no") == "yes"
    assert stop.cut("none here") == "none here"


@pytest.mark.parametrize("strings", [("",), "abc", ("a", 3)])
def test_what_is_no_list_of_strings_is_refused(strings):
    with pytest.raises(ValueError, match="stop must be a sequence of strings"):
        StopStrings(strings, decode)

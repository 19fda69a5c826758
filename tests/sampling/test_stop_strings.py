"""Stop strings against a search from the start, for any tokenization and any search intervals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrl.sampling import StopStrings

pytestmark = pytest.mark.check

TOKENS = ["a", "b", "ab", "ba", "", "</", "answer", ">", "é", "\ufffd"]
STRINGS = ("</answer>", "abab", "éa")


def decode(tokens):
    return "".join(TOKENS[token] for token in tokens)


@given(st.lists(st.integers(0, len(TOKENS) - 1), max_size=60), st.lists(st.integers(1, 9), min_size=1))
def test_an_incremental_search_equals_a_search_from_the_start(tokens, parts):
    stop = StopStrings(STRINGS, decode)
    ends = [n for n in range(1, len(tokens) + 1) if any(string in decode(tokens[:n]) for string in STRINGS)]
    searched, found, step = 0, None, 0
    while found is None and searched < len(tokens):
        seen = min(searched + parts[step % len(parts)], len(tokens))
        found = stop.end(tokens[:seen], searched)
        searched, step = seen, step + 1
    assert found == (ends[0] if ends else None)


def test_a_stop_string_may_contain_many_tokens_without_text():
    """Padded rows of a vocabulary decode to no text."""
    for gap in (2, 50):
        tokens = [0, *[TOKENS.index("")] * gap, 1]
        assert StopStrings(("ab",), decode).end(tokens, gap + 1) == gap + 2


def test_text_is_truncated_before_the_first_stop_string():
    stop = StopStrings(("</answer>", "User:"), decode)
    assert stop.truncate("yes</answer> User: no") == "yes"
    assert stop.truncate("none here") == "none here"


@pytest.mark.parametrize("strings", [("",), "abc", ("a", 3)])
def test_anything_but_a_list_of_strings_is_rejected(without_type_checks, strings):
    with pytest.raises(ValueError, match="stop: expected a sequence of non-empty strings"):
        StopStrings(strings, decode)

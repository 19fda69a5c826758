"""The trained tokenizer: lossless, common words are one token, and equal ids through every loader."""

import pytest

from models.tokenizer import load_tokenizer
from models.vocabulary import END, TAGS, build_tokenizer

TEXTS = ["Ann says: Bob is a knave.<think>Try Ann=knight Bob=knave.</think>"] * 3


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(TEXTS, 400)


@pytest.mark.parametrize("text", ["Ann=knight", "José 学 \n\n tabs\t", "<think> x </think>\n<answer>", "a  b   c", ""])
def test_encoding_is_lossless(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_common_words_and_tags_are_one_token_each(tokenizer):
    for word in (" Ann", "=knight", " knave", *TAGS, END):
        assert len(tokenizer(word)["input_ids"]) == 1, word


def test_too_small_vocabulary_is_rejected():
    with pytest.raises(ValueError, match="at least 263 ids, got 100"):
        build_tokenizer(TEXTS, 100)


def test_bundled_tokenizer_is_the_same_through_every_loader():
    """AutoTokenizer builds its Qwen2 class from vocabulary and merges alone; once every byte became a token."""
    from tokenizers import Tokenizer

    text = "Ann says: Bob is a knave. Who is what?\n<think>Try Ann=knight Bob=knave. Wait, try</think>\n<answer>"
    ids = load_tokenizer("models/tiny")(text)["input_ids"]
    assert ids == Tokenizer.from_file("models/tiny/tokenizer.json").encode(text).ids
    assert len(ids) < 30

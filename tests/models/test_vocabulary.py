"""The small tokenizer: whole words, any text without loss, and the same ids through AutoTokenizer."""

import pytest

from models.tokenizer import load_tokenizer
from models.vocabulary import END, TAGS, build_tokenizer

TEXTS = ["Ann says: Bob is a knave.<think>Try Ann=knight Bob=knave.</think>"] * 3


@pytest.mark.parametrize("text", ["Ann=knight", "José 学 \n\n tabs\t", "<think> x </think>\n<answer>", "a  b   c", ""])
def test_any_text_comes_back(text):
    tokenizer = build_tokenizer(TEXTS, 320)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_known_words_and_tags_are_one_token_each():
    tokenizer = build_tokenizer(TEXTS, 400)
    for word in (" Ann", "=knight", " knave", *TAGS, END):
        assert len(tokenizer(word)["input_ids"]) == 1, word


def test_too_few_ids_are_refused():
    with pytest.raises(ValueError, match="at least 263 ids, got 100"):
        build_tokenizer(TEXTS, 100)


def test_the_shipped_tokenizer_reads_alike_through_every_loader():
    """AutoTokenizer makes its Qwen2 class from vocabulary and merges alone; it fell apart into bytes once."""
    from tokenizers import Tokenizer

    text = "Ann says: Bob is a knave. Who is what?\n<think>Try Ann=knight Bob=knave. Wait, try</think>\n<answer>"
    ids = load_tokenizer("models/tiny")(text)["input_ids"]
    assert ids == Tokenizer.from_file("models/tiny/tokenizer.json").encode(text).ids
    assert len(ids) < 30

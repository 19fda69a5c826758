"""Tokenizers load without torch, end where the model says, fit its rows, and never show half a character."""

import json

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from models.source import resolve_model
from models.tokenizer import Detokenizer, check_vocabulary, eos_ids, load_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A byte-level tokenizer without merges: every character outside ASCII takes several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(tokenizer_models.BPE(vocab={sign: i for i, sign in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", pad_token="<|pad|>")
    path = tmp_path_factory.mktemp("tokenizer")
    made.save_pretrained(path)
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 256]}))
    return path


def test_ends_are_those_of_the_generation_config_then_the_tokenizer_and_never_the_padding(folder):
    tokenizer = load_tokenizer(folder)
    assert eos_ids(folder, tokenizer) == (7, 256)
    assert tokenizer.pad_token_id not in eos_ids(folder, tokenizer)
    check_vocabulary(tokenizer, 258)
    with pytest.raises(ValueError, match="uses token id 257, the model has rows for 0 to 256"):
        check_vocabulary(tokenizer, 257)
    with pytest.raises(ValueError, match="uses token id 300"):
        check_vocabulary(tokenizer, 258, ends=(300,))


def test_no_end_and_no_or_broken_tokenizer_files_are_sentences(folder, tmp_path):
    tokenizer = load_tokenizer(folder)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="names no end-of-sequence token"):
        eos_ids(tmp_path, tokenizer)
    with pytest.raises(FileNotFoundError, match="expected tokenizer files"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="can't be read"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("text", ["plain words", "naïve ça", "日本語と🦜 end", "🧑‍🚀🧑‍🚀", ""])
def test_text_shown_token_by_token_is_the_text_and_never_half_a_character(folder, text):
    tokenizer = load_tokenizer(folder)
    shower = Detokenizer(tokenizer)
    pieces = [shower.push(token) for token in tokenizer.encode(text)]
    assert "\ufffd" not in "".join(pieces)
    assert "".join([*pieces, shower.finish()]) == text


def test_bytes_that_never_become_a_character_come_out_at_the_end(folder):
    tokenizer = load_tokenizer(folder)
    shower = Detokenizer(tokenizer)
    first, *_ = tokenizer.encode("日")
    assert shower.push(tokenizer.encode("a")[0]) == "a"
    assert shower.push(first) == ""
    assert shower.finish() == "\ufffd"


def test_a_model_that_is_not_to_be_had_names_the_three_ways_on(folder, tmp_path):
    for name in ("Qwen/Qwen2.5-7B-Instruct-1M", str(tmp_path / "nowhere")):
        with pytest.raises(FileNotFoundError, match=r"(?s)not to be had.*local folder.*hf auth login.*:tiny"):
            resolve_model(name)
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        resolve_model(folder)
    (tmp_path / "config.json").write_text("{}")
    assert resolve_model(tmp_path) == tmp_path

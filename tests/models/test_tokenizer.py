"""Tokenizers load without torch, end where the model says, fit its rows, and never show half a character."""

import json
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.utils import filter_repo_objects
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from models.source import resolve_model
from models.tokenizer import Detokenizer, check_vocabulary, eos_ids, load_tokenizer

ROOT = Path(__file__).parents[2]


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


# What a repository of the hub may hold besides the model that is read.
REPOSITORY = {
    "config.json": True,
    "generation_config.json": True,
    "model.safetensors.index.json": True,
    "model-00001-of-00002.safetensors": True,
    "tokenizer.json": True,
    "tokenizer_config.json": True,
    "vocab.json": True,
    "merges.txt": True,
    "special_tokens_map.json": True,
    "added_tokens.json": True,
    "chat_template.jinja": True,
    "LICENSE": True,
    "README.md": False,
    "pytorch_model.bin": False,
    "model.Q4_K_M.gguf": False,
    "tf_model.h5": False,
    "original/model.safetensors": False,
    "onnx/config.json": False,
    "figures/result.png": False,
    ".gitattributes": False,
}


def test_only_the_needed_files_are_asked_of_the_hub(tmp_path, monkeypatch):
    asked = {}

    def download(name, **how):
        asked.update(how, name=name)
        return tmp_path

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_model("Qwen/Qwen2.5-7B-Instruct-1M") == tmp_path
    assert asked["name"] == "Qwen/Qwen2.5-7B-Instruct-1M"
    chosen = filter_repo_objects(
        REPOSITORY, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
    )
    assert set(chosen) == {file for file, needed in REPOSITORY.items() if needed}


def test_a_model_downloaded_before_is_found_without_a_network(tmp_path, monkeypatch):
    commit = "0" * 40
    snapshot = tmp_path / "models--Qwen--Qwen2.5-0.5B" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "models--Qwen--Qwen2.5-0.5B" / "refs").mkdir()
    (tmp_path / "models--Qwen--Qwen2.5-0.5B" / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert resolve_model("Qwen/Qwen2.5-0.5B") == snapshot
    looked_at = f"no folder .*Qwen2.5-7B, no whole copy in {tmp_path}, and the hub is out"
    with pytest.raises(FileNotFoundError, match=looked_at):
        resolve_model("Qwen/Qwen2.5-7B")


def test_the_tokenizer_loads_where_there_is_no_torch(folder):
    program = """
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "torch" else find_spec(name, package)
sys.modules["torch"] = None  # whoever imports it gets ModuleNotFoundError, as where it is not installed
from models.tokenizer import load_tokenizer
print(load_tokenizer(sys.argv[1]).decode([65]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == load_tokenizer(folder).decode([65]), done.stderr


def test_a_model_that_is_not_to_be_had_names_the_three_ways_on(folder, tmp_path):
    for name in ("Qwen/Qwen2.5-7B-Instruct-1M", str(tmp_path / "nowhere")):
        with pytest.raises(FileNotFoundError, match=r"(?s)not to be had.*local folder.*hf auth login.*:tiny"):
            resolve_model(name)
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        resolve_model(folder)
    (tmp_path / "config.json").write_text("{}")
    assert resolve_model(tmp_path) == tmp_path

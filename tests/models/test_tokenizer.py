"""Tokenizers: loading without torch, end-of-sequence ids, vocabulary check; downloads from the hub."""

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
from models.tokenizer import check_vocabulary, eos_ids, load_tokenizer

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


def test_eos_ids_come_from_generation_config_and_tokenizer_and_exclude_padding(folder):
    tokenizer = load_tokenizer(folder)
    assert eos_ids(folder, tokenizer) == (7, 256)
    assert tokenizer.pad_token_id not in eos_ids(folder, tokenizer)
    check_vocabulary(tokenizer, 258)
    with pytest.raises(ValueError, match="uses token id 257, the model's embedding has ids 0 to 256"):
        check_vocabulary(tokenizer, 257)
    with pytest.raises(ValueError, match="uses token id 300"):
        check_vocabulary(tokenizer, 258, ends=(300,))


def test_missing_eos_and_missing_or_damaged_files_are_rejected(folder, tmp_path):
    tokenizer = load_tokenizer(folder)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="expected an end-of-sequence token"):
        eos_ids(tmp_path, tokenizer)
    with pytest.raises(FileNotFoundError, match="expected tokenizer files"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="can't be loaded"):
        load_tokenizer(tmp_path)


# Files of a repository on the hub, and whether they are downloaded.
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


def test_only_required_files_are_downloaded(tmp_path, monkeypatch):
    arguments = {}

    def download(name, **options):
        arguments.update(options, name=name)
        return tmp_path

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_model("Qwen/Qwen2.5-7B-Instruct-1M") == tmp_path
    assert arguments["name"] == "Qwen/Qwen2.5-7B-Instruct-1M"
    chosen = filter_repo_objects(
        REPOSITORY, allow_patterns=arguments["allow_patterns"], ignore_patterns=arguments["ignore_patterns"]
    )
    assert set(chosen) == {file for file, needed in REPOSITORY.items() if needed}


def test_cached_model_is_found_without_a_network(tmp_path, monkeypatch):
    commit = "0" * 40
    snapshot = tmp_path / "models--Qwen--Qwen2.5-0.5B" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "models--Qwen--Qwen2.5-0.5B" / "refs").mkdir()
    (tmp_path / "models--Qwen--Qwen2.5-0.5B" / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert resolve_model("Qwen/Qwen2.5-0.5B") == snapshot
    message = f"no folder .*Qwen2.5-7B, no complete copy in {tmp_path}, and the hub is unreachable"
    with pytest.raises(FileNotFoundError, match=message):
        resolve_model("Qwen/Qwen2.5-7B")


def test_tokenizer_loads_without_torch(folder):
    program = """
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "torch" else find_spec(name, package)
sys.modules["torch"] = None  # importing it raises ModuleNotFoundError
from models.tokenizer import load_tokenizer
print(load_tokenizer(sys.argv[1]).decode([65]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == load_tokenizer(folder).decode([65]), done.stderr


def test_unknown_model_error_says_what_to_do(folder, tmp_path):
    for name in ("Qwen/Qwen2.5-7B-Instruct-1M", str(tmp_path / "nowhere")):
        with pytest.raises(FileNotFoundError, match=r"(?s)not found.*local folder.*hf auth login.*:tiny"):
            resolve_model(name)
    with pytest.raises(FileNotFoundError, match=r"found no config\.json"):
        resolve_model(folder)
    (tmp_path / "config.json").write_text("{}")
    assert resolve_model(tmp_path) == tmp_path

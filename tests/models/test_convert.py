"""Weights go in and out unchanged: bit-exact round trips, damaged checkpoints, interrupted exports."""

import errno
import filecmp
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

import models.convert
import models.folder
from models.config import Qwen2Config
from models.convert import load_params, open_params, save_params
from models.folder import INDEX, WEIGHTS, read_config
from models.hf_names import HF_NAMES, abstract_params, tensor_specs

CONFIG = Qwen2Config(
    vocab_size=48,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=4,
)
ROOT = Path(__file__).parents[2]


def make_folder(folder: Path, config: Qwen2Config = CONFIG, dtype="bfloat16", files: int = 1) -> Path:
    """Writes a random checkpoint, with subnormal numbers and all companion files, with the safetensors package."""
    rng = np.random.default_rng(0)
    specs = tensor_specs(config).items()
    scale = 10.0 ** np.arange(-39, 1, dtype=np.float64)[-8 if dtype == "float16" else 0 :]
    tensors = {
        name: (rng.standard_normal(spec.shape) * rng.choice(scale, spec.shape)).astype(np.dtype(dtype))
        for name, spec in specs
    }
    folder.mkdir(parents=True)
    names = sorted(tensors)
    if files == 1:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    else:
        groups = {f"model-{i + 1:05d}-of-{files:05d}.safetensors": names[i::files] for i in range(files)}
        for file, group in groups.items():
            save_file({name: tensors[name] for name in group}, folder / file, metadata={"format": "pt"})
        index = {
            "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
            "weight_map": {name: file for file, group in groups.items() for name in group},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    fields = config.to_hugging_face() | {"torch_dtype": dtype, "unknown_key": {"kept": [1, 2]}}
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / "generation_config.json").write_text('{"eos_token_id": [3, 5]}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A bfloat16 checkpoint in one file, and its parameters."""
    source = make_folder(tmp_path_factory.mktemp("loaded") / "source")
    return source, load_params(source, CONFIG)


@pytest.fixture(scope="module")
def loaded_shards(tmp_path_factory):
    """A bfloat16 checkpoint in two files, and its parameters."""
    source = make_folder(tmp_path_factory.mktemp("loaded") / "source", files=2)
    return source, load_params(source, CONFIG)


def same_files(one: Path, other: Path) -> bool:
    names = sorted(os.listdir(one))
    equal = filecmp.cmpfiles(one, other, names, shallow=False)[0]
    return names == sorted(os.listdir(other)) and equal == names


@pytest.mark.parametrize(("dtype", "files"), [("bfloat16", 3), ("float16", 1), ("float32", 2)])
def test_round_trip_through_float32_is_bit_exact(dtype, files, tmp_path):
    source = make_folder(tmp_path / "source", dtype=dtype, files=files)
    masters = load_params(source, read_config(source), dtype="float32")
    assert {leaf.dtype for leaf in jax.tree.leaves(masters)} == {np.dtype(np.float32)}
    save_params(tmp_path / "export", masters, CONFIG, source_folder=source)
    assert same_files(source, tmp_path / "export")


def test_table_of_names_covers_every_weight(loaded):
    source, params = loaded
    theirs = load_file(source / WEIGHTS)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(ml_dtypes.bfloat16)}
    up = np.asarray(params["layers"]["mlp"]["up"]["kernel"])
    np.testing.assert_array_equal(up[2], theirs["model.layers.2.mlp.up_proj.weight"].T)
    np.testing.assert_array_equal(params["lm_head"]["embedding"], theirs["lm_head.weight"])
    assert len(set(HF_NAMES.values())) == len(HF_NAMES)
    assert len(tensor_specs(CONFIG)) == 3 + 3 * 12


def test_each_of_four_devices_loads_only_its_shard(loaded_shards, tmp_path, monkeypatch):
    source, one = loaded_shards
    mesh = jax.make_mesh((2, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)

    def sharding_of(path, leaf):
        kernel = path[-1].key == "kernel"
        return NamedSharding(mesh, PartitionSpec(None, "fsdp", "tensor") if kernel else PartitionSpec())

    shardings = jax.tree_util.tree_map_with_path(sharding_of, abstract_params(CONFIG))
    read_shapes = {}
    make_array = jax.make_array_from_callback

    def recording(shape, sharding, read):
        read_shapes.setdefault(shape, set()).update(
            read(index).shape for index in sharding.addressable_devices_indices_map(shape).values()
        )
        return make_array(shape, sharding, read)

    monkeypatch.setattr(jax, "make_array_from_callback", recording)
    four = load_params(source, CONFIG, shardings=shardings)
    assert read_shapes[(24, 16)] == {(12, 8)} and read_shapes[(16, 24)] == {(8, 12)}  # each device reads only its shard
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), one, four))
    assert jax.tree.all(jax.tree.map(lambda leaf, s: leaf.sharding == s, four, shardings))
    gate = four["layers"]["mlp"]["gate"]["kernel"]
    assert {shard.data.shape for shard in gate.addressable_shards} == {(3, 8, 12)}
    # The program that writes a layer moves no data between devices.
    one_layer = jax.device_put(gate[0], NamedSharding(mesh, PartitionSpec("fsdp", "tensor")))
    program = models.convert._write_layer(gate.sharding).lower(gate, one_layer, np.int32(0)).compile()
    assert not re.search("all-gather|all-reduce|collective|all-to-all", program.as_text())
    save_params(tmp_path / "export", four, CONFIG, source_folder=source)
    assert same_files(source, tmp_path / "export")


def test_file_arrays_equal_loaded_arrays(loaded_shards, tmp_path, monkeypatch):
    source, _ = loaded_shards
    arrays, lazy = load_params(source, CONFIG, dtype="float32"), open_params(source, CONFIG, dtype="float32")
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b[:]) and a.dtype == b.dtype, arrays, lazy))
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a[-1], b[a.shape[0] - 1]), arrays, lazy))
    monkeypatch.setattr(models.convert, "BLOCK_BYTES", 200)  # splits every tensor into several blocks
    save_params(tmp_path / "export", lazy, CONFIG, source_folder=source)
    assert same_files(source, tmp_path / "export")


def test_dtype_and_shard_size_are_options_and_other_config_keys_are_kept(tmp_path):
    source = make_folder(tmp_path / "source", dtype="float32")
    params = load_params(source, CONFIG)
    save_params(tmp_path / "export", params, CONFIG, source_folder=source, dtype="bfloat16", max_shard_bytes=4000)
    files = sorted(path.name for path in (tmp_path / "export").glob("*.safetensors"))
    assert len(files) > 1 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((tmp_path / "export" / INDEX).read_text())
    assert index["metadata"]["total_size"] * 2 == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    want, got = load_file(source / WEIGHTS), {}
    for file in files:
        got |= load_file(tmp_path / "export" / file)
    assert set(got) == set(want) == set(index["weight_map"])
    for name, tensor in got.items():
        assert tensor.tobytes() == want[name].astype(ml_dtypes.bfloat16).tobytes()
    fields = json.loads((tmp_path / "export" / "config.json").read_text())
    assert fields == json.loads((source / "config.json").read_text()) | {"torch_dtype": "bfloat16"}


def test_stored_copy_of_a_tied_head_is_kept_and_a_different_one_is_rejected(tmp_path):
    tied = Qwen2Config(**(vars(CONFIG) | {"tie_word_embeddings": True}))
    source = make_folder(tmp_path / "source", tied)
    tensors = load_file(source / WEIGHTS)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    save_file(tensors, source / WEIGHTS, metadata={"format": "pt"})
    save_params(tmp_path / "export", load_params(source, tied), tied, source_folder=source)
    assert same_files(source, tmp_path / "export")
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, source / WEIGHTS)
    with pytest.raises(ValueError, match=r"expected equal lm_head\.weight and model\.embed_tokens\.weight"):
        load_params(source, tied)


def _edit(folder: Path, change) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def _damage(folder: Path, file: str, change) -> None:
    (folder / file).write_bytes(change((folder / file).read_bytes()))


NORM, UP = "model.norm.weight", "model.layers.1.mlp.up_proj.weight"
FIRST = "model-00001-of-00002.safetensors"
DAMAGES = {
    "missing": (1, lambda f: _edit(f, lambda t: (t.pop(NORM), t.pop(UP))), f"missing {UP}; missing {NORM}"),
    "unexpected": (1, lambda f: _edit(f, lambda t: t.update(extra=np.zeros(2, "f4"))), "unexpected extra"),
    "wrong shape": (
        1,
        lambda f: _edit(f, lambda t: t.update({UP: np.zeros((16, 24), "f4")})),
        r"up_proj.weight has shape \[16, 24\], expected \[24, 16\]",
    ),
    "other dtype": (1, lambda f: _edit(f, lambda t: t.update({NORM: np.zeros(16, np.int8)})), "stored as I8"),
    "truncated": (1, lambda f: _damage(f, WEIGHTS, lambda b: b[:-10]), "is truncated"),
    "empty": (1, lambda f: _damage(f, WEIGHTS, lambda b: b""), "is truncated"),
    "header": (1, lambda f: _damage(f, WEIGHTS, lambda b: b[:9] + b"~~" + b[11:]), "not JSON"),
    "repeated name": (
        1,
        lambda f: _damage(f, WEIGHTS, lambda b: b.replace(b"s.2.mlp", b"s.1.mlp", 1)),
        "repeated names: model.layers.1.mlp",
    ),
    "huge header": (1, lambda f: _damage(f, WEIGHTS, lambda b: b"\xff" * 7 + b"\x7f" + b[8:]), "corrupt"),
    "no weights": (1, lambda f: (f / WEIGHTS).unlink(), "expected model.safetensors or .*found neither"),
    "missing file": (2, lambda f: (f / FIRST).unlink(), f"files of .* are missing in .*{FIRST}"),
    "stored twice": (
        2,
        lambda f: shutil.copy(f / FIRST, f / FIRST.replace("00001-", "00002-")),
        "stores tensors twice",
    ),
    "index": (
        2,
        lambda f: _damage(f, INDEX, lambda b: b.replace(b"model.norm.", b"model.morn.")),
        "disagrees with its files on model.morn.weight .*model.norm.weight",
    ),
    "index not JSON": (2, lambda f: _damage(f, INDEX, lambda b: b[:50]), "expected JSON in"),
}


@pytest.mark.parametrize("kind", sorted(DAMAGES))
def test_damaged_checkpoint_is_rejected(kind, loaded, loaded_shards, tmp_path):
    files, damage, message = DAMAGES[kind]
    intact, params = loaded if files == 1 else loaded_shards
    source = Path(shutil.copytree(intact, tmp_path / "source"))
    damage(source)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_params(source, CONFIG)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        save_params(tmp_path / "export", params, CONFIG, source_folder=source)
    assert os.listdir(tmp_path) == ["source"]


def test_parameters_of_another_config_are_rejected_before_writing(loaded, tmp_path):
    source, params = Path(shutil.copytree(loaded[0], tmp_path / "source")), loaded[1]
    wrong = params | {"final_norm": {"scale": np.zeros(3)}, "more": {"scale": np.zeros(3)}}
    wrong.pop("lm_head")
    message = r"missing lm_head.*unexpected more/scale.*final_norm/scale has shape \[3\]"
    with pytest.raises(ValueError, match=message):
        save_params(tmp_path / "export", wrong, CONFIG)
    with pytest.raises(ValueError, match="dtype must be one of"):
        save_params(tmp_path / "export", params, CONFIG, dtype="int8")
    (source / "config.json").write_text(json.dumps(CONFIG.to_hugging_face() | {"rope_theta": 1e4}))
    with pytest.raises(ValueError, match="has another configuration than the parameters"):
        save_params(tmp_path / "export", params, CONFIG, source_folder=source)
    assert os.listdir(tmp_path) == ["source"]


def test_full_disk_keeps_the_old_folder(loaded, tmp_path, monkeypatch):
    source, params = loaded
    save_params(tmp_path / "export", params, CONFIG, source_folder=source)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(models.convert, "write_file", full)
        with pytest.raises(OSError, match="no space left while writing"):
            save_params(tmp_path / "export", params, CONFIG, source_folder=source)
        usage = shutil.disk_usage(tmp_path)
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(OSError, match=r"needs .* GB and .* has 0\.00 GB free"):
            save_params(tmp_path / "export", params, CONFIG, source_folder=source)
    assert same_files(source, tmp_path / "export")
    assert os.listdir(tmp_path) == ["export"]


def test_written_files_are_verified(loaded, tmp_path, monkeypatch):
    source, params = loaded
    write_file = models.convert.write_file

    def failing_disk(path, *arguments):
        write_file(path, *arguments)
        _damage(path.parent, path.name, lambda data: data[:-1] + bytes([data[-1] ^ 1]))

    monkeypatch.setattr(models.convert, "write_file", failing_disk)
    with pytest.raises(OSError, match="verification failed, the written data differ for "):
        save_params(tmp_path / "export", params, CONFIG, source_folder=source)
    assert os.listdir(tmp_path) == []


KILLED = """
import os, signal, sys
from pathlib import Path
import models.folder
from models.folder import replacing
if sys.argv[2] == "before the exchange":
    models.folder._exchange = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "between two renames":
    rename = Path.rename
    models.folder.ctypes.CDLL = lambda *_, **__: None  # a file system that can't exchange two folders
    Path.rename = lambda old, new: (rename(old, new), os.kill(os.getpid(), signal.SIGKILL))
with replacing(sys.argv[1]) as temporary:
    (temporary / "config.json").write_text("new")
    if sys.argv[2] == "while writing":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["while writing", "before the exchange"])
def test_killed_export_keeps_the_old_folder_and_the_next_one_cleans_up(moment, tmp_path):
    old = tmp_path / "export"
    old.mkdir()
    (old / "config.json").write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(old), moment], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert os.listdir(old) == ["config.json"] and (old / "config.json").read_text() == "old"
    with models.folder.replacing(old) as temporary:
        (temporary / "config.json").write_text("newest")
    assert (old / "config.json").read_text() == "newest"
    assert os.listdir(tmp_path) == ["export"]


def test_without_atomic_exchange_the_next_export_restores_the_old_folder(tmp_path):
    old = tmp_path / "export"
    old.mkdir()
    (old / "config.json").write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(old), "between two renames"], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not old.exists() and (tmp_path / ".export.old" / "config.json").read_text() == "old"
    with pytest.raises(ValueError, match="a reason"), models.folder.replacing(old):
        raise ValueError("a reason")
    assert (old / "config.json").read_text() == "old"
    assert os.listdir(tmp_path) == ["export"]


def test_folder_with_other_files_is_never_replaced(loaded, tmp_path):
    source, params = Path(shutil.copytree(loaded[0], tmp_path / "source")), loaded[1]
    (source / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"thesis.tex"):
        save_params(source, params, CONFIG)
    with (
        models.folder.replacing(tmp_path / "export"),
        pytest.raises(FileExistsError, match="another process"),
        models.folder.replacing(tmp_path / "export"),
    ):
        pass

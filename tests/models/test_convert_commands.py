"""`jaxrl.convert` and `jaxrl.export`: bit-exact round trip, options, user errors."""

import json
import os
import re
import shutil
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

import jaxrl.convert
import jaxrl.export
from jaxrl.checkpointing.checkpoints import Checkpoints
from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.learning.optimizer import OptimizerSpec, make_optimizer
from jaxrl.learning.state import init_params, init_state
from models.config import Qwen2Config
from models.convert import load_params, save_params
from models.folder import read_config
from models.hf_names import tensor_specs
from models.qwen2 import Qwen2

CONFIG = Qwen2Config(
    vocab_size=24,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=4,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A converted model in run/, next to its source/."""
    folder = tmp_path_factory.mktemp("convert")
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.standard_normal(spec.shape).astype(ml_dtypes.bfloat16) for name, spec in tensor_specs(CONFIG).items()
    }
    (folder / "source").mkdir()
    save_file(tensors, folder / "source" / "model.safetensors", metadata={"format": "pt"})
    (folder / "source" / "config.json").write_text(json.dumps(CONFIG.to_hugging_face()))
    (folder / "source" / "tokenizer.json").write_text("{}")
    assert jaxrl.convert.main([f"--input={folder / 'source'}", f"--output={folder / 'run'}"]) == 0
    return folder / "run"


def test_convert_and_export_round_trip_is_bit_exact(run, tmp_path, capsys):
    for name in (f"{run}", f"{run}@0"):
        assert jaxrl.export.main([f"--checkpoint={name}", f"--output={tmp_path / 'out'}"]) == 0
        assert "step 0 of" in capsys.readouterr().out
        for path in (run.parent / "source").iterdir():
            assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
        assert len(os.listdir(tmp_path / "out")) == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--checkpoint=RUN@7"], "no checkpoint of step 7 in .*; choose one of 0"),
        (["--checkpoint=RUN@last"], "expected RUN or RUN@step"),
        (["--checkpoint=nowhere"], "expected a run folder with checkpoints/ at nowhere"),
        (["--checkpoint=RUN", "--dtype=int8"], "dtype must be one of"),
        (["--checkpoint=RUN", "--max-shard-size=big"], "expected a size such as 5GB"),
        (["--checkpoint=RUN", "--source=nowhere"], "model 'nowhere' not found"),
    ],
)
def test_user_error_is_one_sentence_with_status_2(run, flags, message, tmp_path, capsys):
    arguments = [argument.replace("RUN", str(run)) for argument in flags]
    assert jaxrl.export.main([*arguments, f"--output={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("jaxrl.export: ") and error.count("\n") == 1
    assert re.search(message, error)
    assert not os.listdir(tmp_path)


def test_parse_size():
    assert [jaxrl.export.parse_size(text) for text in ("5GB", "1.5 KiB", "12")] == [5 * 10**9, 1536, 12]
    for wrong in ("", "GB", "-1GB", "0", "5 parsecs"):
        with pytest.raises(ValueError, match="expected a size"):
            jaxrl.export.parse_size(wrong)


def test_dtype_and_shard_size_are_applied(run, tmp_path):
    out = tmp_path / "out"
    assert jaxrl.export.main([f"--checkpoint={run}", f"--output={out}", "--dtype=float32", "--max-shard-size=2KB"]) == 0
    files = sorted(out.glob("*.safetensors"))
    assert len(files) > 1 and max(file.stat().st_size for file in files) < 4000
    exported = {name: tensor for file in files for name, tensor in load_file(file).items()}
    for name, tensor in load_file(run.parent / "source" / "model.safetensors").items():
        np.testing.assert_array_equal(exported[name], tensor.astype(np.float32), strict=True)


def test_sharded_training_state_is_exported_in_the_dtype_of_the_source(run, tmp_path):
    """Sharded float32 parameters with optimizer state are exported as bfloat16 weights."""
    mesh = make_mesh(MeshSpec(data=1, fsdp=2, tensor=2))
    model, optimizer = Qwen2(CONFIG), make_optimizer(OptimizerSpec())
    state = init_state(model, optimizer, mesh, init_params(model, mesh, jax.random.key(1)))
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        for step in (3, 7):
            checkpoints.save(step, state, {})
            state = state._replace(params=jax.tree.map(lambda leaf: leaf * np.float32(1.5), state.params))
    (tmp_path / "run" / "config.json").write_text((run / "config.json").read_text())
    assert jaxrl.export.main([f"--checkpoint={tmp_path / 'run'}@7", f"--output={tmp_path / 'out'}"]) == 0
    kernel = np.asarray(state.params["layers"]["mlp"]["up"]["kernel"]) / 1.5
    exported = load_file(tmp_path / "out" / "model.safetensors")["model.layers.1.mlp.up_proj.weight"]
    np.testing.assert_array_equal(exported, kernel[1].T.astype(ml_dtypes.bfloat16), strict=True)
    assert (tmp_path / "out" / "config.json").read_bytes() == (run.parent / "source" / "config.json").read_bytes()


def test_transformers_loads_the_exported_model_and_tokenizer(tmp_path):
    config = read_config("models/tiny")
    source = tmp_path / "source"
    params = load_params("models/tiny", config)
    save_params(source, params, config, source_folder="models/tiny", max_shard_bytes=2_000_000)
    assert jaxrl.convert.main([f"--input={source}", f"--output={tmp_path / 'run'}"]) == 0
    assert jaxrl.export.main([f"--checkpoint={tmp_path / 'run'}", f"--output={tmp_path / 'out'}"]) == 0
    assert len(list(source.glob("*.safetensors"))) > 1
    for path in source.iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    for path in Path("models/tiny").iterdir():
        assert path.suffix == ".safetensors" or path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    text = "Ann says: Bob is a knave."
    folders = ("models/tiny", tmp_path / "out")
    before, after = (transformers.AutoTokenizer.from_pretrained(folder) for folder in folders)
    assert before(text)["input_ids"] == after(text)["input_ids"]
    ids = torch.tensor([before(text)["input_ids"]])
    logits = [transformers.AutoModelForCausalLM.from_pretrained(folder)(ids).logits for folder in folders]
    assert torch.equal(*logits)


def test_full_disk_is_one_sentence_and_writes_nothing(run, tmp_path, capsys, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert jaxrl.convert.main([f"--input={run.parent / 'source'}", f"--output={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"jaxrl.convert: no space left while writing .*run; free some space .*\n", error)
    assert not os.listdir(tmp_path)


def test_convert_rejects_a_folder_that_is_not_empty(run, capsys):
    assert jaxrl.convert.main([f"--input={run.parent / 'source'}", f"--output={run}"]) == 2
    assert "exists and is not empty" in capsys.readouterr().err

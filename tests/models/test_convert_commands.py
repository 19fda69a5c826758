"""`jaxrl.convert` and `jaxrl.export`: there and back to the byte, and polite ends."""

import json
import os
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxrl.convert
import jaxrl.export
from models.config import Qwen2Config
from models.names import tensor_slots

CONFIG = Qwen2Config(vocab_size=24, hidden_size=8, intermediate_size=12, num_hidden_layers=2,
                     num_attention_heads=2, num_key_value_heads=1, head_dim=4)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A converted model: run/ beside its source/."""
    folder = tmp_path_factory.mktemp("convert")
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(slot.shape).astype(ml_dtypes.bfloat16)
               for name, slot in tensor_slots(CONFIG).items()}
    (folder / "source").mkdir()
    save_file(tensors, folder / "source" / "model.safetensors", metadata={"format": "pt"})
    (folder / "source" / "config.json").write_text(json.dumps(CONFIG.to_hugging_face()))
    (folder / "source" / "tokenizer.json").write_text("{}")
    assert jaxrl.convert.main([f"--input={folder / 'source'}", f"--output={folder / 'run'}"]) == 0
    return folder / "run"


def test_convert_then_export_is_the_source_to_the_byte(run, tmp_path, capsys):
    for name in (f"{run}", f"{run}@0"):
        assert jaxrl.export.main([f"--checkpoint={name}", f"--output={tmp_path / 'out'}"]) == 0
        assert "step 0 of" in capsys.readouterr().out
        for path in (run.parent / "source").iterdir():
            assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
        assert len(os.listdir(tmp_path / "out")) == 3


@pytest.mark.parametrize(("more", "sentence"), [
    (["--checkpoint=RUN@7"], "no checkpoint of step 7 in .*; there are 0"),
    (["--checkpoint=RUN@last"], "expected RUN or RUN@step"),
    (["--checkpoint=nowhere"], "expected a run folder with checkpoints/ at nowhere"),
    (["--checkpoint=RUN", "--dtype=int8"], "dtype must be one of"),
    (["--checkpoint=RUN", "--max-shard-size=big"], "expected a size such as 5GB"),
    (["--checkpoint=RUN", "--source=nowhere"], "the model 'nowhere' is not to be had"),
])
def test_a_user_error_is_one_sentence_status_2_and_nothing_written(run, more, sentence, tmp_path, capsys):
    arguments = [argument.replace("RUN", str(run)) for argument in more]
    assert jaxrl.export.main([*arguments, f"--output={tmp_path / 'out'}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("jaxrl.export: ") and said.count("\n") == 1
    assert re.search(sentence, said)
    assert not os.listdir(tmp_path)


def test_sizes():
    assert [jaxrl.export.parse_size(text) for text in ("5GB", "1.5 KiB", "12")] == [5 * 10**9, 1536, 12]
    for wrong in ("", "GB", "-1GB", "0", "5 parsecs"):
        with pytest.raises(ValueError, match="expected a size"):
            jaxrl.export.parse_size(wrong)


def test_convert_never_writes_into_a_folder_that_holds_something(run, capsys):
    assert jaxrl.convert.main([f"--input={run.parent / 'source'}", f"--output={run}"]) == 2
    assert "is there already and not empty" in capsys.readouterr().err

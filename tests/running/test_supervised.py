"""The base is taught by coordinates too: a schooling that was cut goes on to the same weights, bit for bit."""

import importlib

import jax
import numpy as np
import pytest

from jaxrl.running import supervised
from jaxrl.running.supervised import train_supervised
from jaxrl.sft import supervised_spec
from models.convert import load_params
from models.folder import read_config
from models.tokenizer import load_tokenizer


def spec_of():
    config = importlib.import_module("configs.tiny_base").get_config()
    config.model.update({"vocab_size": 320, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
                         "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8})
    config.update({"rows": 8, "longest": 640, "micro_tokens": 1024, "save_minutes": 0.0})
    for phase in config.phases.values():
        phase.tokens = 6000
    return supervised_spec(config)


def test_a_schooling_that_was_cut_gives_the_same_base(tmp_path, monkeypatch):
    monkeypatch.setattr(supervised, "_VOCABULARY_EXAMPLES", 50)
    spec, quiet = spec_of(), lambda line: None
    train_supervised(spec, tmp_path / "whole", tmp_path / "base", quiet)
    real, seen = supervised._batch, []

    def dies(spec, phase, step, tokenizer):
        seen.append(step)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return real(spec, phase, step, tokenizer)

    with monkeypatch.context() as patch:
        patch.setattr(supervised, "_batch", dies)
        with pytest.raises(KeyboardInterrupt):
            train_supervised(spec, tmp_path / "cut", tmp_path / "other", quiet)
    train_supervised(spec, tmp_path / "cut", tmp_path / "other", quiet)
    config = read_config(tmp_path / "base")
    mine, theirs = (jax.tree.leaves(load_params(tmp_path / name, config)) for name in ("base", "other"))
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
    assert load_tokenizer(tmp_path / "base").chat_template


def test_the_rate_warms_up_and_falls_to_its_share():
    phase = spec_of().phases[0]
    assert phase.rate(0, 0) == pytest.approx(phase.learning_rate / phase.warmup_steps)
    assert phase.rate(phase.tokens, 10_000) == pytest.approx(phase.learning_rate * phase.final_share)

"""The base is taught by coordinates too: a schooling that was cut goes on to the same weights, bit for bit."""

import dataclasses
import importlib
import os
import re
import signal

import jax
import numpy as np
import pytest

from jaxrl.base_model import trainer as supervised
from jaxrl.base_model.trainer import train_supervised
from jaxrl.checkpointing.checkpoints import Checkpoints
from jaxrl.runtime.signals import Stopped
from jaxrl.sft import supervised_spec
from models.convert import load_params
from models.folder import read_config
from models.tokenizer import load_tokenizer


def spec_of():
    config = importlib.import_module("configs.tiny_base").get_config()
    config.model.update(
        {
            "vocab_size": 320,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
        }
    )
    config.update({"rows": 8, "longest": 640, "micro_tokens": 1024, "save_minutes": 0.0})
    for phase in config.phases.values():
        phase.tokens = 6000
    return supervised_spec(config)


def quiet(line):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A schooling that nothing disturbed: its specification and the base."""
    folder, patch = tmp_path_factory.mktemp("school"), pytest.MonkeyPatch()
    patch.setattr(supervised, "_VOCABULARY_EXAMPLES", 50)
    spec = spec_of()
    train_supervised(spec, folder / "whole", folder / "base", quiet)
    yield spec, folder / "base"
    patch.undo()


def same_base(mine, theirs):
    config = read_config(theirs)
    leaves = [jax.tree.leaves(load_params(folder, config)) for folder in (mine, theirs)]
    for first, second in zip(*leaves, strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_schooling_that_was_cut_gives_the_same_base(whole, tmp_path, monkeypatch):
    spec, real, seen = whole[0], supervised._batch, []

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
    same_base(tmp_path / "other", whole[1])
    assert load_tokenizer(whole[1]).chat_template


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_schooling_that_was_stopped_saves_and_goes_on_from_there(whole, tmp_path, monkeypatch, number):
    """Nothing but the signal saves: the phases here are over long before an hour is."""
    spec, real, said, seen = dataclasses.replace(whole[0], save_minutes=60.0), supervised._batch, [], []

    def stops(spec, phase, step, tokenizer):
        seen.append(step)
        if len(seen) == 4:
            os.kill(os.getpid(), number)
        return real(spec, phase, step, tokenizer)

    with monkeypatch.context() as patch:
        patch.setattr(supervised, "_batch", stops)
        with pytest.raises(Stopped, match=rf"in phase skill, after step \d: stopped by {number.name}") as stopped:
            train_supervised(spec, tmp_path / "cut", tmp_path / "other", quiet)
    assert stopped.value.status == 75 and not (tmp_path / "other").exists()
    done = re.search(r"after step (\d)", str(stopped.value)).group(1)
    train_supervised(spec, tmp_path / "cut", tmp_path / "other", said.append)
    assert f"'phase': 0, 'step': {done}, " in said[0] and int(done) > 0
    same_base(tmp_path / "other", whole[1])


def test_a_signal_in_a_save_does_not_write_the_same_checkpoint_again(whole, tmp_path, monkeypatch):
    """It would take away the whole one first."""
    spec, real, saved = dataclasses.replace(whole[0], save_minutes=0.0), Checkpoints.save, []

    def stops(self, step, *rest):
        real(self, step, *rest)
        saved.append(step)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Checkpoints, "save", stops)
    with pytest.raises(Stopped):
        train_supervised(spec, tmp_path / "cut", tmp_path / "other", quiet)
    assert saved == [1]


def test_the_rate_warms_up_and_falls_to_its_share():
    phase = spec_of().phases[0]
    assert phase.rate(0, 0) == pytest.approx(phase.learning_rate / phase.warmup_steps)
    assert phase.rate(phase.tokens, 10_000) == pytest.approx(phase.learning_rate * phase.final_share)

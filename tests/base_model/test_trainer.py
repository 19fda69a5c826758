"""Supervised training of the base model: an interrupted run resumes to the same weights, bit for bit."""

import dataclasses
import importlib
import os
import re
import signal

import jax
import numpy as np
import pytest

from data_gen.corpus import Example
from jaxrl.base_model import batches, trainer
from jaxrl.base_model.spec import supervised_spec
from jaxrl.base_model.trainer import train_supervised
from jaxrl.checkpointing.checkpoints import Checkpoints
from jaxrl.runtime.signals import Stopped
from models.convert import load_params
from models.folder import read_config
from models.tokenizer import load_tokenizer


def tiny_spec():
    config = importlib.import_module("configs.tiny_base").get_config().to_dict()
    config["model"] |= {
        "vocab_size": 320,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    }
    config |= {"rows": 8, "longest": 640, "micro_tokens": 1024, "checkpoint": {"every": 1}}
    for phase in config["phases"].values():
        phase["tokens"] = 6000
    return supervised_spec(config)


def ignore(line):
    pass


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A specification and the folder of the base model of an uninterrupted run."""
    folder, patch = tmp_path_factory.mktemp("base_model"), pytest.MonkeyPatch()
    patch.setattr(trainer, "train_tokenizer", lambda spec: batches.train_tokenizer(spec, examples=50))
    spec = tiny_spec()
    train_supervised(spec, folder / "run", folder / "base", ignore)
    yield spec, folder / "base"
    patch.undo()


def assert_same_weights(folder, other):
    config = read_config(other)
    leaves = [jax.tree.leaves(load_params(path, config)) for path in (folder, other)]
    for first, second in zip(*leaves, strict=True):
        np.testing.assert_array_equal(first, second)


def at_batch(number, action):
    """`make_batch` that calls `action` before it makes batch `number` of the run, from 1."""
    made = []

    def make_batch(*arguments):
        made.append(None)
        if len(made) == number:
            action()
        return batches.make_batch(*arguments)

    return make_batch


def test_a_killed_run_resumes_to_the_same_weights(uninterrupted, tmp_path, monkeypatch):
    spec, base = uninterrupted

    def die():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "make_batch", at_batch(6, die))
        with pytest.raises(KeyboardInterrupt):
            train_supervised(spec, tmp_path / "run", tmp_path / "base", ignore)
    train_supervised(spec, tmp_path / "run", tmp_path / "base", ignore)
    assert_same_weights(tmp_path / "base", base)
    assert load_tokenizer(base).chat_template


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_and_resumes(uninterrupted, tmp_path, monkeypatch, number):
    """Only the signal saves: the phases have fewer steps than `checkpoint.every`."""
    checkpoint = dataclasses.replace(uninterrupted[0].checkpoint, every=1000)
    spec, lines = dataclasses.replace(uninterrupted[0], checkpoint=checkpoint), []
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "make_batch", at_batch(3, lambda: os.kill(os.getpid(), number)))
        with pytest.raises(Stopped, match=rf"in phase skill, after step \d: stopped by {number.name}") as stopped:
            train_supervised(spec, tmp_path / "run", tmp_path / "base", ignore)
    assert stopped.value.status == 75 and not (tmp_path / "base").exists()
    step = re.search(r"after step (\d)", str(stopped.value)).group(1)
    train_supervised(spec, tmp_path / "run", tmp_path / "base", lines.append)
    assert f"phase=0, step={step}, " in lines[0] and int(step) > 0
    assert_same_weights(tmp_path / "base", uninterrupted[1])


def test_a_signal_during_a_save_does_not_repeat_the_save(uninterrupted, tmp_path, monkeypatch):
    """To write the same checkpoint again would first delete the complete one."""
    save, saved = Checkpoints.save, []

    def save_and_stop(self, step, *arguments, **options):
        save(self, step, *arguments, **options)
        saved.append(step)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Checkpoints, "save", save_and_stop)
    with pytest.raises(Stopped):
        train_supervised(uninterrupted[0], tmp_path / "run", tmp_path / "base", ignore)
    assert saved == [1]


def test_the_learning_rate_warms_up_and_decays_to_its_final_share():
    phase = tiny_spec().phases[0]
    assert phase.learning_rate(0, 0) == pytest.approx(phase.peak_learning_rate / phase.warmup_steps)
    assert phase.learning_rate(phase.tokens, 10_000) == pytest.approx(phase.peak_learning_rate * phase.final_share)


def test_a_batch_has_its_loss_on_the_response_and_is_truncated(uninterrupted):
    spec, base = uninterrupted
    tokenizer = load_tokenizer(base)
    batch = batches.make_batch(spec, 0, 3, tokenizer)
    assert all(
        np.array_equal(x, y) for x, y in zip(batch[:4], batches.make_batch(spec, 0, 3, tokenizer)[:4], strict=True)
    )
    ends = batch.tokens[np.arange(spec.rows), batch.lengths - 1]
    assert (ends == tokenizer.eos_token_id).all()
    puzzle = next(batches.write_corpus(spec.phases[0].corpus, 0)).puzzle
    prompt = tokenizer(batches.puzzle_prompt(puzzle, spec.prompt, tokenizer))["input_ids"]
    row = batches.encode([Example(puzzle, "I will go with that. " * 30)], spec.prompt, tokenizer, len(prompt) + 5)
    assert row.lengths.tolist() == [len(prompt) + 5]
    assert row.loss_mask[0].tolist() == [0] * len(prompt) + [1] * 5
    assert row.tokens[0, : len(prompt)].tolist() == prompt
    with pytest.raises(ValueError, match=f"more than the {len(prompt)} tokens of the longest prompt"):
        batches.encode([Example(puzzle, "")], spec.prompt, tokenizer, len(prompt))

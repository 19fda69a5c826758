"""The guard names what is wrong with a step, and keeps all of it."""

import importlib
import json
import math
import os
import re
import types
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from jaxrl.algorithms.batch import Batch
from jaxrl.checkpointing.retrying_writer import RetryingWriter
from jaxrl.command_line import plain
from jaxrl.reporting.rollouts import GroupRecord, ResponseRecord, read_rollouts
from jaxrl.reporting.terminal import Terminal
from jaxrl.reporting.wandb_writer import WandbSpec
from jaxrl.training.guard import (
    GuardSpec,
    find_cause,
    soundness_counts,
    soundness_warnings,
    store_rejected_step,
)
from jaxrl.training.run_log import RunLog
from jaxrl.training.run_spec import run_spec

TINY = Path(__file__).parents[2] / "models" / "tiny"
FIELDS = plain(importlib.import_module("configs.base").get_run())["guard"]
FINE = {
    "loss/total": 0.1,
    "gradient_norm": 0.3,
    "update_norm": 1e-3,
    "loss/kl": 0.02,
    "entropy": 0.4,
    "critic/loss": 0.5,
    "critic/gradient_norm": 0.2,
    "reward/mean": -1.0,
    "behaviour/repetition": 0.3,
    "share/bad_format": 1.0,
    "length/mean": 300.0,
}


@pytest.mark.parametrize(
    ("name", "value", "bounds", "message"),
    [
        ("loss/total", math.nan, {}, "loss/total is nan: lower learning_rate"),
        ("gradient_norm", math.inf, {}, "gradient_norm is inf"),
        ("critic/loss", math.nan, {}, "critic/loss is nan: lower algorithm.critic_learning_rate"),
        ("critic/gradient_norm", math.inf, {}, "critic/gradient_norm is inf: lower algorithm.critic_learning_rate"),
        ("loss/kl", 1.2, {}, "the KL to the reference .* is 1.2, over guard.kl_max = 1: lower learning_rate or raise"),
        ("entropy", 0.4, {"entropy_min": 0.5}, "the entropy .* is 0.4, under guard.entropy_min = 0.5"),
        ("entropy", 4.5, {}, "over guard.entropy_max = 4"),
        ("behaviour/repetition", 1.0, {}, "share of responses that repeat themselves is 1, over"),
        (
            "share/bad_format",
            0.95,
            {"bad_format_max": 0.9},
            "responses with format errors is 0.95, over guard.bad_format_max",
        ),
        (
            "share/bad_format",
            0.9,
            {"bad_format_max": 0.8, "stage_fields": ("bad_format_max",)},
            "over bounds.bad_format_max = 0.8",
        ),
        ("length/mean", 1.0, {}, "the mean length .* is 1, under guard.length_min = 1.5"),
        ("length/mean", 300, {"length_max": 299.5}, "over guard.length_max = 299.5"),
    ],
)
def test_a_metric_beyond_its_bound_is_named(name, value, bounds, message):
    spec = GuardSpec(**FIELDS | bounds)
    assert not find_cause(GuardSpec(**FIELDS), FINE)
    assert re.search(message, find_cause(spec, FINE | {name: value}))


def test_a_bound_of_zero_is_off_and_a_missing_metric_is_accepted():
    off = GuardSpec(**FIELDS | {field: 0.0 for field in FIELDS if field.endswith(("_min", "_max"))})
    wild = FINE | {"loss/kl": 1e6, "entropy": 99.0, "behaviour/repetition": 1.0, "length/mean": 0.5}
    assert not find_cause(off, wild)
    assert not find_cause(GuardSpec(**FIELDS), {name: value for name, value in FINE.items() if name != "loss/kl"})


def noisy_run(accuracy, sound, seed, prompts=16, samples=16):
    """Records of a stage with these mean shares by step. Problems differ: some are nearly always solved, some never."""
    generator = np.random.default_rng(seed)
    records = []
    for step, (correct_mean, sound_mean) in enumerate(zip(accuracy, sound, strict=True), start=1):
        solved = generator.beta(2 * correct_mean + 1e-6, 2 - 2 * correct_mean, prompts)
        correct = generator.binomial(samples, solved)
        share = sound_mean / correct_mean if correct_mean else 0.0
        reasoned = generator.binomial(correct, generator.beta(4 * share + 1e-6, 4 - 4 * share, prompts))
        responses = prompts * samples
        records.append(
            {"step": step, "stage": "stage2", "share/correct": correct.sum() / responses,
             "share/sound": reasoned.sum() / responses, "tokens/rollout": 100.5 * responses, "length/mean": 100.5}
        )  # fmt: skip
    return records


def warned_steps(records, **changes):
    """The steps at which the guard warns that answers are guessed."""
    spec = GuardSpec(**FIELDS | changes)
    steps = range(1, len(records) + 1)
    return [step for step in steps if soundness_warnings(spec, soundness_counts(records[:step]))]


# As measured on puzzles of 4 people: accuracy rises from 36 to 48 %, while sound falls from 18 to 10.5 %.
GUESSING = (
    np.concatenate([np.linspace(0.02, 0.36, 8), np.linspace(0.36, 0.48, 8), np.full(8, 0.48)]),
    np.concatenate([np.linspace(0.01, 0.18, 8), np.linspace(0.18, 0.105, 8), np.full(8, 0.105)]),
)
# The run at half the rate: 0 -> 59 % right and 0 -> 37 % sound.
REASONING = (
    np.concatenate([np.zeros(5), np.linspace(0.2, 0.59, 7), np.full(12, 0.59)]),
    np.concatenate([np.zeros(5), np.linspace(0.2, 0.59, 7), np.full(12, 0.59)]) * 0.37 / 0.59,
)


def test_accuracy_that_rises_without_soundness_warns():
    """For nearly all seeds; a curve without noise always warns, by its averages over 8 steps."""
    assert sum(bool(warned_steps(noisy_run(*GUESSING, seed))) for seed in range(40)) >= 36
    assert sum(bool(warned_steps(noisy_run(*REASONING, seed))) for seed in range(40)) <= 1
    counts = soundness_counts(noisy_run(*GUESSING, seed=1))
    (warning,) = soundness_warnings(GuardSpec(**FIELDS), counts)
    assert re.match(
        r"in stage2, accuracy rose from \d+% \(steps 1 to 8\) to 4\d% \(last 8 steps\), but .* fell", warning
    )


def test_steady_soundness_does_not_warn_over_a_long_stage():
    """96 steps have 66 pairs of averages; noise alone must not warn."""
    flat, rising = np.full(96, 0.5), np.linspace(0.1, 0.8, 96)
    found = [warned_steps(noisy_run(each, 0.6 * each, seed)) for each in (flat, rising) for seed in range(10)]
    assert sum(map(bool, found)) <= 1


def test_soundness_warns_only_about_one_stage_and_only_if_it_is_on():
    records = noisy_run(*GUESSING, seed=1)
    assert warned_steps(records)
    assert not warned_steps(records, sound_warn=0.0)
    assert not warned_steps(records, sound_warn=0.9)
    assert not warned_steps([record | {"stage": f"stage{record['step'] // 8}"} for record in records])
    assert not warned_steps(records[::-1])  # accuracy falls
    unverified = [{name: record[name] for name in record if name != "share/sound"} for record in records]
    assert soundness_counts(unverified) == [] and not warned_steps([unverified[0]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sound_warn": 1.5}, "guard.sound_warn: expected a share of 0 .off. to 1, got 1.5"),
        ({"sound_steps": 0}, "guard.sound_steps: expected 1 or more, got 0"),
        ({"remedy": "pray"}, "guard.remedy: expected one of reseed, learning_rate, temperature, stop, got 'pray'"),
        ({"factor": 1.0}, "a factor between 0 and 1"),
        ({"retries": -1}, "retries of 0 or more"),
        ({"kl_max": -1.0}, "guard.kl_max: expected 0"),
        ({"entropy_max": math.nan}, "guard.entropy_max"),
        ({"kl_max": -1.0, "stage_fields": ("kl_max",)}, "bounds.kl_max: expected 0"),
        ({"suspects_warn": 2.0}, "guard.suspects_warn"),
    ],
)
def test_wrong_fields_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        GuardSpec(**FIELDS | changes)


def test_a_rejected_step_is_stored_completely_even_if_it_is_not_finite(tmp_path):
    rows = np.zeros((2, 3), np.float32)
    batch = Batch(rows.astype(np.int32), np.array([3, 2], np.int32), rows, np.full_like(rows, np.nan))
    response = ResponseRecord("", "bad_format", (), (), -1.0, -2.0, -3.0, None, 1, True)
    group = GroupRecord(7, "stage1", 0, "id", "p3", "prompt", "solution", (response, response))
    store_rejected_step(
        tmp_path / "trip_1", 7, "loss/total is nan.", {"step": 7, "loss/total": math.nan}, batch, [group]
    )
    stored = np.load(tmp_path / "trip_1" / "step_000007.npz")
    assert set(stored) == {"tokens", "lengths", "loss_mask", "advantages"}
    np.testing.assert_array_equal(stored["advantages"], batch.advantages)
    assert read_rollouts(tmp_path / "trip_1" / "step_000007.jsonl.gz") == [group]
    cause = json.loads((tmp_path / "trip_1" / "cause.json").read_text())
    assert cause == {"cause": "loss/total is nan.", "step": 7, "loss/total": "nan"}


def test_all_of_a_trip_is_forced_to_disk(tmp_path, monkeypatch):
    synced, real = set(), os.fsync

    def fsync(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    rows, folder = np.zeros((1, 2), np.float32), tmp_path / "trip_1"
    store_rejected_step(
        folder, 7, "why", {"step": 7}, Batch(rows.astype(np.int32), np.array([2], np.int32), rows, rows), []
    )
    assert len(list(folder.iterdir())) == 3
    assert synced == {entry.stat().st_ino for entry in (folder, *folder.iterdir())}


def test_a_temperature_of_3_is_lowered_under_the_shipped_bounds(small, tmp_path):
    """The embedded model writes noise at 3 and answers at 1, which is a third of it."""
    shipped = plain(importlib.import_module("configs.three_stage").get_config("tiny"))
    values = {"steps": 1, "sampling.temperature": 3.0, "sampling.temperature_end": 3.0, "sampling.max_new_tokens": 96}
    hot = {f"stages.stage{stage}.{field}": value for stage in (1, 2, 3) for field, value in values.items()}
    guard = {f"guard.{field}": value for field, value in shipped["guard"].items()}
    remedy = {"guard.remedy": "temperature", "guard.factor": 1 / 3, "model": str(TINY)}
    small.run(small.fields(tmp_path / "run", hot | guard | remedy)).train()
    assert sum("entropy" in line and "remedy 1 of 3: temperature" in line for line in small.logged) == 1
    records = small.numbers(tmp_path / "run")[1:]
    assert {record["temperature"] for record in records} == {1.0}
    assert {record["guard/trips"] for record in records} == {1}
    assert all(record["entropy"] < shipped["guard"]["entropy_max"] for record in records)


def test_a_stage_has_bounds_of_its_own():
    """Format errors are bounded after stage 1: from then on, a run that loses the format has collapsed."""
    for size in ("", "tiny"):
        config = importlib.import_module("configs.three_stage").get_config(size)
        config.stages.stage2.bounds.kl_max = 0.7
        one, two, three = run_spec(plain(config)).stages
        broken = FINE | {"share/bad_format": 0.9, "loss/kl": 0.8}
        assert not find_cause(one.guard, broken)
        assert "over bounds.kl_max = 0.7" in find_cause(two.guard, broken)
        assert "over bounds.bad_format_max = 0.8" in find_cause(three.guard, broken)
    single = importlib.import_module("configs.stage2").get_config()
    assert "over bounds.bad_format_max" in find_cause(run_spec(plain(single)).stages[0].guard, broken)


def test_the_shipped_run_of_the_embedded_model_stays_within_its_bounds():
    """The numbers of docs/three_stage_tiny.html at their worst, the first step's form among them."""
    stages = run_spec(plain(importlib.import_module("configs.three_stage").get_config("tiny"))).stages
    worst = {
        "loss/kl": 0.074,
        "entropy": 0.134,
        "behaviour/repetition": 0.723,
        "share/bad_format": 0.44,
        "length/mean": 62.0,
    }
    assert [find_cause(stage.guard, FINE | worst) for stage in stages] == ["", "", ""]


def test_a_resumed_run_counts_soundness_from_its_file(tmp_path):
    """A warning depends on the steps before, also on those before the run was killed or rolled back."""
    spec = types.SimpleNamespace(workdir=tmp_path, wandb=WandbSpec("off"))
    terminal = Terminal(24, console=Console(quiet=True))
    records = noisy_run(*GUESSING, seed=1)
    with RunLog(spec, {}, terminal, RetryingWriter(1, print), 0) as log:
        log.add_metrics({"step": 0})
        for record in records:
            log.add_metrics(record)
        log.flush()
        assert log.soundness == soundness_counts(records)
        log.drop_after(20)
        assert log.soundness == soundness_counts(records[:20])
    with RunLog(spec, {}, terminal, RetryingWriter(1, print), 17) as log:
        assert log.soundness == soundness_counts(records[:17])

"""The guard names what is wrong with a step, and keeps all of it."""

import importlib
import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest

from jaxrl.algorithms.batch import Batch
from jaxrl.command_line import plain
from jaxrl.reporting.rollouts import GroupRecord, ResponseRecord, read_rollouts
from jaxrl.training.guard import GuardSpec, find_cause, store_rejected_step
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
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

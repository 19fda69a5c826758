"""The table of metrics: documentation, validation of records, and the deterministic part."""

from pathlib import Path

import pytest

from jaxrl.reporting.metrics import METRICS, check_record, deterministic_part, find_metric, markdown_table

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_documentation_has_the_table():
    assert markdown_table() in DOCS.read_text(encoding="utf-8")


def test_names_are_unique_and_have_meanings():
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert all(metric.meaning for metric in METRICS)


def test_unknown_names_and_invalid_steps_are_rejected():
    check_record({"step": 0, "behaviour/hesitation": 0.5, "evaluation/3/greedy/accuracy": 0.2})
    with pytest.raises(ValueError, match="reward/maen"):
        check_record({"step": 1, "reward/maen": 0.0})
    with pytest.raises(KeyError):
        find_metric("suspects/")
    for bad in ({}, {"step": -1}, {"step": True}, {"step": 1.0}):
        with pytest.raises(ValueError, match="step"):
            check_record(bad)


def test_deterministic_part_drops_times_speeds_and_memory():
    record = {
        "step": 3,
        "reward/mean": 0.5,
        "time/step": 1.0,
        "time/checkpoint": 1.0,
        "memory/peak_bytes": 9,
        "speed/rollout_tokens_per_second": 7.0,
    }
    assert deterministic_part(record) == {"step": 3, "reward/mean": 0.5}

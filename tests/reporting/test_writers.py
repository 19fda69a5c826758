"""metrics.jsonl is complete after a kill and on a full disk."""

import errno
import json
import math
import os
from contextlib import closing

import numpy as np
import pytest

from jaxrl.reporting.writers import JsonlWriter, read_metrics


def run(path, steps, restored=None):
    writer = JsonlWriter(path, restored)
    for step in steps:
        writer.write({"step": step, "reward/mean": step / 3, "share/correct": np.float32(step) / np.float32(7)})
    writer.close()


def test_a_killed_and_resumed_run_writes_the_file_of_an_undisturbed_run(tmp_path):
    run(tmp_path / "whole.jsonl", range(9))
    broken = tmp_path / "broken.jsonl"
    run(broken, range(6))
    with open(broken, "ab") as stream:
        stream.write(b'{"step": 6, "reward/me')  # killed in the middle of a line
    run(broken, range(5, 9), restored=4)
    assert broken.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_values_come_back_bit_for_bit(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonlWriter(path)
    value = np.float32(0.1)
    writer.write({"step": 1, "loss/total": value, "reward/mean": math.nan, "ratio/mean": -math.inf, "stage": "one"})
    record = read_metrics(path)[0]
    assert np.float32(record["loss/total"]) == value
    assert record["loss/total"] == float(value)
    assert math.isnan(record["reward/mean"])
    assert record["ratio/mean"] == -math.inf
    json.loads(path.read_text(), parse_constant=pytest.fail)  # strict JSON: no bare NaN


def test_a_record_is_on_disk_when_write_returns(tmp_path):
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    writer.write({"step": 1})
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1]
    with pytest.raises(ValueError, match="expected a step after 1"):
        writer.write({"step": 1})


def test_a_missing_step_and_an_unreadable_line_are_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    run(path, [1, 2, 4])
    with pytest.raises(ValueError, match="step 3 is missing"):
        JsonlWriter(path, restored_step=4)
    path.write_text('{"step": 1}\nrubbish\n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_metrics(path)


def test_a_full_disk_leaves_no_incomplete_line(tmp_path, monkeypatch):
    real, full = os.write, OSError(errno.ENOSPC, "No space left on device")

    def write(descriptor, data):
        if len(data) < 20:  # the second half of a line
            raise full
        return real(descriptor, data[: len(data) // 2])

    with closing(JsonlWriter(tmp_path / "metrics.jsonl")) as writer:
        writer.write({"step": 0})
        monkeypatch.setattr(os, "write", write)
        with pytest.raises(OSError, match="No space left"):
            writer.write({"step": 1, "warnings": ["a long one"]})
        monkeypatch.undo()
        assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 0}\n'
        writer.write({"step": 1})
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1]

"""Stored rollouts: round trip, reproducible bytes, atomic and durable writes, damaged files."""

import gzip
import os

import pytest

from jaxrl.reporting.rollouts import (
    GroupRecord,
    ResponseRecord,
    drop_rollouts_after,
    read_rollouts,
    rollout_steps,
    write_rollouts,
)


def group(step, text="<think>a</think>\u2028</script> 甲"):
    response = ResponseRecord(
        text, "wrong_answer", ("one person is wrong",), (), 1.0, -1.5, -0.5, 0.25, 7, True, "guess"
    )
    return GroupRecord(step, "one", 4, "kk-3-7", "p3", "Ann says: ...", "Ann: knight", (response, response))


def test_round_trip_and_reproducible_bytes(tmp_path):
    groups = [group(12), group(12, "")]
    path = write_rollouts(tmp_path / "a", 12, groups)
    assert path.name == "step_000012.jsonl.gz"
    assert read_rollouts(path) == groups
    assert path.read_bytes() == write_rollouts(tmp_path / "b", 12, groups).read_bytes()


def test_reasoning_is_stored_and_absent_in_earlier_files(tmp_path):
    one = group(3)
    wrong = one.responses[0]._replace(sound=False, error="check: wrong role", span=(7, 8))
    path = write_rollouts(tmp_path, 3, [one._replace(responses=(wrong, one.responses[1]))])
    (found,) = read_rollouts(path)
    assert found.responses[0][-3:] == (False, "check: wrong role", (7, 8))
    lines = gzip.decompress(path.read_bytes()).decode()
    for field in ('"sound": false', '"sound": null', '"error": "check: wrong role"', '"error": ""', '"span": [7, 8]',
                  '"span": [0, 0]'):  # fmt: skip
        lines = lines.replace(f", {field}", "")
    assert "sound" not in lines and "span" not in lines
    path.write_bytes(gzip.compress(lines.encode()))
    assert read_rollouts(path) == [one]


def test_resume_removes_later_steps_and_partial_files(tmp_path):
    assert rollout_steps(tmp_path / "none") == []
    for step in (3, 1, 2):
        write_rollouts(tmp_path, step, [group(step)])
    (tmp_path / "step_000004.jsonl.gz.partial").write_bytes(b"half")
    drop_rollouts_after(tmp_path, 2)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "step_000001.jsonl.gz",
        "step_000002.jsonl.gz",
    ]


def test_failed_write_keeps_the_old_file(tmp_path):
    path = write_rollouts(tmp_path, 1, [group(1)])
    with pytest.raises(ValueError, match="step 2"):
        write_rollouts(tmp_path, 1, [group(2)])
    assert read_rollouts(path) == [group(1)]


def test_file_and_folder_are_flushed_to_disk(tmp_path, monkeypatch):
    """A rename that is not flushed may be lost in a power cut, while later steps are already on disk."""
    synced, real = [], os.fsync

    def fsync(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    path = write_rollouts(tmp_path / "rollouts", 1, [])
    assert synced == [path.stat().st_ino, path.parent.stat().st_ino]


def test_damaged_files_are_named(tmp_path):
    path = write_rollouts(tmp_path, 1, [group(1)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="truncated or corrupt gzip file"):
        read_rollouts(path)
    path.write_bytes(gzip.compress(b'{"step": 1}\n'))
    with pytest.raises(ValueError, match="line 1"):
        read_rollouts(path)

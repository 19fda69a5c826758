"""The benchmark of kills names every small difference in what it compares."""

import gzip
import json
import random
import shutil

import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

from benchmarks.kills import KINDS, Timing, differences, observe, random_moment, remains


def save(folder, moment):
    with ocp.StandardCheckpointer() as writer:
        state = {"params": {"w": jnp.ones(3)}, "opt_state": {"mu": jnp.full(3, moment)}}
        writer.save(folder / "checkpoints" / "2" / "state", state)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The compared files of a run of two steps."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    for part in ("rollouts", "evaluations", "export"):
        (folder / part).mkdir(parents=True)
    lines = [{"step": step, "loss/total": 0.5, "time/step": 1.0} for step in range(3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "rollouts" / "step_000001.jsonl.gz").write_bytes(gzip.compress(b"{}", mtime=0))
    (folder / "evaluations" / "after.json").write_text("{}")
    (folder / "export" / "model.safetensors").write_bytes(b"weights")
    save(folder, 0.0)
    return folder


@pytest.fixture
def mine(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def test_runs_that_differ_only_in_time_have_no_difference(whole, mine):
    lines = (mine / "metrics.jsonl").read_text().replace('"time/step": 1.0', '"time/step": 2.0')
    (mine / "metrics.jsonl").write_text(lines)
    assert differences(mine, whole) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "name"),
    [
        ("metrics.jsonl", b'1, "loss/total": 0.5', b'1, "loss/total": 0.25', "metrics.jsonl, step 1"),
        ("metrics.jsonl", b'{"step": 2', b'{"step": 1', "steps of metrics.jsonl"),
        ("evaluations/after.json", b"{}", b"{ }", "evaluations/after.json"),
        ("export/model.safetensors", b"weights", b"weightz", "export/model.safetensors"),
    ],
)
def test_a_difference_is_named(whole, mine, file, old, new, name):
    (mine / file).write_bytes((mine / file).read_bytes().replace(old, new))
    assert differences(mine, whole) == [name]


def test_a_missing_rollout_file_and_other_moments_are_named(whole, mine):
    (mine / "rollouts" / "step_000001.jsonl.gz").unlink()
    shutil.rmtree(mine / "checkpoints")
    save(mine, 1e-30)
    assert differences(mine, whole) == ["rollouts/step_000001.jsonl.gz", "last checkpoint, ['opt_state']['mu']"]


def test_the_remains_of_a_kill_are_listed(mine):
    assert remains(mine) == ("2", "2", "-")
    (mine / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir()
    (mine / "checkpoints" / "deleted" / "1").mkdir(parents=True)
    (mine / "rollouts" / "step_000003.jsonl.gz.partial").touch()
    with open(mine / "metrics.jsonl", "a") as metrics:
        metrics.write('{"step": 3')
    incomplete = (
        "checkpoints/4.orbax-checkpoint-tmp",
        "checkpoints/deleted/1",
        "rollouts/step_000003.jsonl.gz.partial",
        "metrics.jsonl",
    )
    assert remains(mine) == ("2", "2", ", ".join(incomplete))


def test_moments_follow_from_the_seed_and_their_files_are_noticed(mine):
    moments = [[random_moment(kind, Timing(9.0, 2.0), random.Random(7)) for kind in KINDS] for _ in range(2)]
    assert moments[0] == moments[1] and {moment.kind for moment in moments[0]} == set(KINDS)
    assert observe(mine, "checkpoint") == 0 < observe(mine, "step")
    (mine / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir()
    assert observe(mine, "checkpoint") == 1
    (mine / "checkpoints" / "deleted" / "1" / "note").mkdir(parents=True)
    whole = observe(mine, "file deletion")
    (mine / "checkpoints" / "deleted" / "1" / "note").rmdir()
    assert observe(mine, "file deletion") > whole

"""A run folder belongs to one config and one process; changes between two starts are logged and stored."""

import errno
import importlib
import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from jaxrl import train
from jaxrl.command_line import override_arguments, plain
from jaxrl.inference.training_problems import training_problems
from jaxrl.reporting.manifest import compare_manifests, write_manifest
from jaxrl.reporting.metrics import deterministic_part
from jaxrl.reporting.writers import read_metrics
from jaxrl.sweeps.runner import SweepRun, run_sweep
from jaxrl.training import trainer
from jaxrl.training.workdir import check_workdir, claim_run_folder
from models.folder import replacing

ROOT = Path(__file__).parents[2]
STEPS = 6


def single_fields(**changes):
    config = importlib.import_module("configs.stage1").get_config("tiny")
    config.update_from_flattened_dict(changes)
    return plain(config)


def stored(folder, fields):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    return folder


def test_a_run_of_one_stage_keeps_its_name(tmp_path):
    """It is the stage's name too, under which metrics.jsonl has its steps."""
    folder = stored(tmp_path / "run", single_fields())
    with pytest.raises(ValueError, match=r"name \(there 'stage1', now 'x'\)"):
        check_workdir(folder, single_fields(name="x"))


def test_the_training_problems_of_a_run_of_one_stage(tmp_path):
    problems = list(training_problems(single_fields(**{"pool.p3": 5})))
    assert [problem.kind for problem in problems] == ["p3"] * 5


def test_a_folder_whose_run_was_killed_at_its_first_write_is_reused(tmp_path):
    killed = (
        "import os, sys; os.fsync = lambda _: os.kill(os.getpid(), 9); "
        "from jaxrl.reporting.files import write_text; write_text(sys.argv[1], '{')"
    )
    subprocess.run([sys.executable, "-c", killed, str(tmp_path / "config.json")], cwd=ROOT)
    (half,) = tmp_path.iterdir()
    check_workdir(tmp_path, single_fields())
    with claim_run_folder(tmp_path, single_fields()):
        assert not half.exists()
    (tmp_path / "config.json").unlink()
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match=r"got files without a config\.json"):
        check_workdir(tmp_path, single_fields())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, r"seed \(there 0, now 1\)"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"samples": 8}, "samples"),
        ({"learning_rate.value": 1e-5}, r"learning_rate\.value"),
        ({"evaluation.every": 3}, "evaluation.every"),
        ({"optimizer.moment_dtype": "bfloat16"}, "moment_dtype"),
    ],
)
def test_changes_of_results_are_errors(tmp_path, changes, message):
    folder = stored(tmp_path / "run", single_fields())
    with pytest.raises(ValueError, match=message), claim_run_folder(folder, single_fields(**changes)):
        pass
    assert json.loads((folder / "config.json").read_text()) == single_fields()


def test_changes_of_the_layout_are_allowed_and_logged_once(tmp_path):
    """The next start compares with the last accepted config."""
    folder = stored(tmp_path / "run", single_fields())
    changes = {
        "devices": 2,
        "mesh.fsdp": 2,
        "sampler.rows": 8,
        "layout.micro_tokens": 512,
        "remat": "full",
        "attention": "cudnn",
        "unroll": 1,
    }
    now = single_fields(**changes, **{"rollouts.every": 3, "guard.retries": 9, "export": False})
    with claim_run_folder(folder, now) as lines:
        assert len(lines) == len(changes) + 2  # a change of `export` is not logged
        assert (
            "changed since the last start: layout.micro_tokens was 1536, is 512; from here on numbers may differ in "
            "rounding" in lines
        )
        assert "changed since the last start: guard.retries was 3, is 9" in lines
    assert json.loads((folder / "config.json").read_text()) == now
    with claim_run_folder(folder, now) as lines:
        assert lines == []


def test_a_change_is_in_the_history_even_if_its_start_was_killed(tmp_path):
    """For example while the state is read: the same command then finds its own config."""
    folder = stored(tmp_path / "run", single_fields())
    first = {"versions": {}, "commit": "a", "hardware": {}, "weights": "w", "rule": "r", "problems": {}}
    write_manifest(folder, first, 0)
    (folder / "checkpoints" / "7" / "state").mkdir(parents=True)
    with claim_run_folder(folder, single_fields(**{"guard.retries": 9})) as lines:
        pass
    with claim_run_folder(folder, single_fields(**{"guard.retries": 9})) as again:
        assert write_manifest(folder, first, 7) == again == []
    history = json.loads((folder / "manifest.json").read_text())["history"]
    assert history == [{"step": 7, "changes": lines}] and "guard.retries was 3, is 9" in lines[0]
    assert write_manifest(folder, first | {"commit": "b"}, 7) == ["changed since: commit was 'a', is 'b'"]


def test_bounds_of_a_stage_may_change(tmp_path):
    folder = stored(tmp_path / "run", single_fields())
    check_workdir(folder, single_fields(**{"bounds.kl_max": 2.0}))
    several = plain(importlib.import_module("configs.three_stage").get_config("tiny"))
    folder = stored(tmp_path / "several", several)
    several["stages"]["stage2"]["bounds"]["kl_max"] = 2.0
    check_workdir(folder, several)
    several["stages"]["stage2"]["samples"] = 8
    with pytest.raises(ValueError, match=r"config: stages.stage2.samples \(there 16, now 8\)\. Choose"):
        check_workdir(folder, several)


def test_one_process_at_a_time_uses_the_folder(tmp_path):
    fields, folder = single_fields(), tmp_path / "run"
    with claim_run_folder(folder, fields):
        message = rf"in use by process {os.getpid()} on .*; wait for it to end"
        with pytest.raises(OSError, match=message), claim_run_folder(folder, single_fields(devices=2)):
            pass
        assert json.loads((folder / "config.json").read_text())["devices"] == 1
    with claim_run_folder(folder, fields) as lines:
        assert lines == []


def test_a_lock_ends_with_its_process(tmp_path):
    held = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys, time\nlock = open(sys.argv[1], 'w')\n"
            "fcntl.flock(lock, fcntl.LOCK_EX)\nprint(flush=True)\ntime.sleep(600)",
            str(tmp_path / ".lock"),
        ],
        stdout=subprocess.PIPE,
    )
    held.stdout.readline()
    with pytest.raises(OSError, match="in use by another process"), claim_run_folder(tmp_path, single_fields()):
        pass
    held.kill()
    held.communicate()
    with claim_run_folder(tmp_path, single_fields()):
        pass


@pytest.mark.parametrize("number", [errno.EWOULDBLOCK, errno.EACCES])
def test_both_errors_of_a_locked_file_are_recognized(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(BlockingIOError, match="is in use"), claim_run_folder(tmp_path / "run", single_fields()):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_without_file_locks_a_run_continues_with_a_warning(tmp_path, monkeypatch, number):
    """Lustre without its mount option: a run, a sweep and an export work."""

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    message = f"can't be locked ({os.strerror(number)}); make sure that the same command is not started twice."
    with claim_run_folder(tmp_path / "run", single_fields()) as lines:
        assert lines == [f"warning: {tmp_path / 'run' / '.lock'} {message}"]
    printed, arguments = [], ("-c", "")
    member = SweepRun(0, "plain", 0, tmp_path / "run", "model", 2, False, arguments)
    run_sweep([member], [{}], printed.append)
    assert printed[0] == f"warning: {member.log} {message}" and "started" in printed[1]
    for text in ("old", "new"):
        with pytest.warns(UserWarning, match=re.escape(message)), replacing(tmp_path / "export") as folder:
            (folder / "config.json").write_text(text)
    assert (tmp_path / "export" / "config.json").read_text() == "new"


def test_a_second_start_during_the_first_writes_nothing(small, whole):
    run, workdir = whole
    before = (workdir / "metrics.jsonl").read_bytes()
    with claim_run_folder(workdir, run.config), pytest.raises(OSError, match="is in use"):
        small.run(run.config).train()
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_a_manifest_keeps_its_origin_and_what_changed_since(tmp_path):
    weights = {"weights": "w", "rule": "r", "problems": {"held_out": {"count": 1, "hash": "h"}}}
    first = {"versions": {"jax": "1"}, "commit": "a", "hardware": {"devices": 4}} | weights
    second = first | {"commit": "b"}
    assert write_manifest(tmp_path, first, 0) == write_manifest(tmp_path, first, 2) == []
    assert json.loads((tmp_path / "manifest.json").read_text()) == first
    assert write_manifest(tmp_path, second, 4) == ["changed since: commit was 'a', is 'b'"]
    assert write_manifest(tmp_path, second, 5) == []
    stored = json.loads((tmp_path / "manifest.json").read_text())
    entry = {"step": 4, "changes": ["changed since: commit was 'a', is 'b'"]}
    assert stored == first | {"history": [entry | {part: second[part] for part in ("versions", "commit", "hardware")}]}
    line = compare_manifests(stored, first)[0]
    assert line.startswith("the earlier run was resumed after step 4 with a change: changed since")
    with pytest.raises(ValueError, match=r"this run cannot be resumed: problems\.held_out\.hash \(then 'h', now 'x'\)"):
        write_manifest(tmp_path, first | {"problems": {"held_out": {"count": 1, "hash": "x"}}}, 6)
    assert json.loads((tmp_path / "manifest.json").read_text()) == stored


def test_a_run_resumes_with_fewer_devices(small, whole, judged, tmp_path, monkeypatch):
    """Killed on four devices after step 2 and on two after step 4, finished on one: equal up to rounding."""
    workdir, write = tmp_path / "run", trainer.RunLog.add_metrics
    for devices, last in ((4, 2), (2, 4), (1, STEPS)):
        fields = small.fields(workdir, {"devices": devices, "mesh.data": 1, "mesh.fsdp": -1})

        def dies(self, record, last=last):
            write(self, record)
            if last < STEPS and record["step"] == last + 1:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(trainer.RunLog, "add_metrics", dies)
            with pytest.raises(KeyboardInterrupt) if last < STEPS else nullcontext():
                small.run(fields).train()
    assert "resuming after step 4" in small.logged
    assert any("devices was 2, is 1" in line for line in small.logged)
    history = json.loads((workdir / "manifest.json").read_text())["history"]
    assert [entry["step"] for entry in history] == [2, 4]
    mine, theirs = small.numbers(workdir), small.numbers(whole[1])
    assert [record["step"] for record in mine] == list(range(STEPS + 1))
    for name in ("loss/total", "entropy", "length/mean"):
        assert [record[name] for record in mine[1:]] == pytest.approx(
            [record[name] for record in theirs[1:]], rel=1e-3, abs=1e-5
        )
    for first, second in zip(small.params(workdir), small.params(whole[1]), strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)


def test_a_run_does_not_resume_with_other_problems(small, whole, monkeypatch):
    run, workdir = whole
    before = {path.name: path.read_bytes() for path in workdir.glob("*.json*")}
    again = small.run(run.config | {"unroll": 2})
    monkeypatch.setitem(again.problem_set.pools, "stage1", again.problem_set.pools["stage1"][:-1])
    with pytest.raises(ValueError, match=r"this run cannot be resumed: problems\.stage1\.count \(then 6, now 5\)"):
        again.train()
    assert {path.name: path.read_bytes() for path in workdir.glob("*.json*")} == before


def test_a_past_run_is_reproduced_from_its_manifest(small, tmp_path, capsys):
    """`train --manifest=FILE --workdir=NEW`: every number of every step, and the files to the byte."""
    stage = ("steps=1", "prompts=4", "samples=4", "pool.p3=6", "sampling.max_new_tokens=8", "bounds.bad_format_max=0")
    fields = {
        "model": small.base,
        "wandb.mode": "off",
        "compile_cache": "",
        "guard.entropy_max": 0,
        "layout.micro_tokens": 512,
        "layout.multiple": 64,
        "layout.ratio": 2.0,
        "evaluation.samples": 2,
        "evaluation.max_new_tokens": 8,
        "evaluation.pool.p2": 0,
        "evaluation.pool.p3": 3,
        "evaluation.pool.p4": 0,
        "evaluation.pool.p5": 0,
        "unroll": 1,
        "sampler.devices": 0,
    }
    first, again = tmp_path / "first", tmp_path / "again"
    arguments = [*override_arguments(fields), *(f"--config.{field}" for field in stage)]
    assert train.main(["--config=configs/stage1.py:tiny", f"--workdir={first}", *arguments]) == 0
    capsys.readouterr()
    assert train.main([f"--manifest={first / 'manifest.json'}", f"--workdir={again}"]) == 0
    assert "changed since" not in capsys.readouterr().out
    mine, theirs = (
        [deterministic_part(record) for record in read_metrics(folder / "metrics.jsonl")] for folder in (again, first)
    )
    assert mine == theirs and len(mine) == 2
    for path in ("manifest.json", "rollouts/step_000001.jsonl.gz", "export/model.safetensors"):
        assert (again / path).read_bytes() == (first / path).read_bytes()

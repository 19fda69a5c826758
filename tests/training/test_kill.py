"""Law 2 with real signals: the same command, started again, ends with the numbers of a run never stopped."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrl.checkpointing.restore import restore_params
from jaxrl.reporting.metrics import deterministic
from jaxrl.reporting.rollouts import rollout_path
from jaxrl.reporting.writers import read_metrics
from models.folder import read_config

ROOT = Path(__file__).parents[2]
STEPS = 6
SMALL = (
    "--config.wandb.mode=off",
    "--config.checkpoint.every=2",
    "--config.evaluation.samples=1",
    "--config.evaluation.max_new_tokens=24",
    "--config.evaluation.pool.p2=0",
    "--config.evaluation.pool.p3=8",
    "--config.evaluation.pool.p4=0",
    "--config.evaluation.pool.p5=0",
    "--config.layout.multiple=64",
    "--config.layout.ratio=2.0",
    *(
        f"--config.stages.stage{stage}.{field}"
        for stage in (1, 2, 3)
        for field in (
            "steps=2",
            "prompts=4",
            "samples=4",
            "pool.p3=16",
            "sampling.max_new_tokens=24",
            "bounds.bad_format_max=0",
        )
    ),  # all is cut off
)


def start(workdir, cache, stdout=subprocess.PIPE):
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jaxrl.train",
            "--config=configs/three_stage.py:tiny",
            f"--workdir={workdir}",
            f"--config.compile_cache={cache}",
            *SMALL,
        ],
        cwd=ROOT,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said


def signal_when(process, workdir, pattern, number):
    """Send a signal as soon as a file of the pattern is there; what the process said, once it is gone."""
    while not any(workdir.glob(pattern)):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    process.send_signal(number)
    return process.communicate(timeout=600)[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    finish(start(folder / "whole", folder / "cache"))
    return folder


def assert_same(workdir, whole):
    mine, theirs = (
        [deterministic(record) for record in read_metrics(folder / "metrics.jsonl")] for folder in (workdir, whole)
    )
    assert [record["step"] for record in mine] == list(range(STEPS + 1))
    assert mine == theirs
    for step in range(1, STEPS + 1):
        first, second = (rollout_path(folder / "rollouts", step) for folder in (workdir, whole))
        assert first.read_bytes() == second.read_bytes()
    config = read_config(workdir / "export")
    trees = [jax.tree.leaves(jax.device_get(restore_params(folder, config)[0])) for folder in (workdir, whole)]
    for first, second in zip(*trees, strict=True):
        np.testing.assert_array_equal(first, second)


# Step 3 is the first of stage 2 and no checkpoint follows it; checkpoint 4 is being written when its folder appears.
@pytest.mark.parametrize("sign", ["rollouts/step_000003.jsonl.gz", "checkpoints/4*"])
def test_a_killed_run_ends_as_one_that_was_not(whole, tmp_path, sign):
    workdir = tmp_path / "run"
    process = start(workdir, whole / "cache")
    signal_when(process, workdir, sign, signal.SIGKILL)
    assert not (workdir / "export").exists()
    with open("/dev/full", "wb") as full:  # what can't be shown ends no run
        finish(start(workdir, whole / "cache", full))
    assert_same(workdir, whole / "whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_says_one_line_and_goes_on(whole, tmp_path, number):
    """Exit status 75 asks to be started again; step 3 is no multiple of checkpoint.every, so the signal saved it."""
    workdir = tmp_path / "run"
    process = start(workdir, whole / "cache")
    said = signal_when(process, workdir, "rollouts/step_000003.jsonl.gz", number)
    assert process.returncode == 75, said
    last = said.splitlines()[-1]
    assert re.fullmatch(rf"jaxrl.train: after step [34]: stopped by {number.name}; start the same command .*", last)
    assert (workdir / "checkpoints" / re.search(r"step (\d)", last).group(1)).is_dir()
    assert "Traceback" not in said
    reader, gone = os.pipe()
    os.close(reader)
    process = start(workdir, whole / "cache", gone)  # as where `| tee` has died
    os.close(gone)
    finish(process)
    assert_same(workdir, whole / "whole")

"""Law 2 with real signals: a run that is stopped and resumed has the numbers of a run that was not."""

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
from jaxrl.reporting.metrics import deterministic_part
from jaxrl.reporting.rollouts import rollout_path
from jaxrl.reporting.writers import read_metrics
from models.folder import read_config

pytestmark = pytest.mark.slow

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
    ),  # all responses are truncated
)


def start(workdir, stdout=subprocess.PIPE):
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jaxrl.train",
            "--config=configs/three_stage.py:tiny",
            f"--workdir={workdir}",
            "--config.compile_cache=",  # the cache of the tests, see conftest.py
            *SMALL,
        ],
        cwd=ROOT,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output


def signal_when(process, workdir, pattern, number):
    """Send a signal as soon as a file of the pattern exists; the output of the process after its exit."""
    while not any(workdir.glob(pattern)):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    process.send_signal(number)
    return process.communicate(timeout=600)[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbs."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    finish(start(workdir))
    return workdir


def assert_same(workdir, whole):
    mine, theirs = (
        [deterministic_part(record) for record in read_metrics(folder / "metrics.jsonl")] for folder in (workdir, whole)
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


def test_a_killed_run_ends_as_one_that_was_not_killed(whole, tmp_path):
    """Killed after step 3, the first of stage 2, which has no checkpoint, and while checkpoint 4 is written."""
    workdir = tmp_path / "run"
    for pattern in ("rollouts/step_000003.jsonl.gz", "checkpoints/4*"):
        process = start(workdir)
        signal_when(process, workdir, pattern, signal.SIGKILL)
        assert not (workdir / "export").exists()
    with open("/dev/full", "wb") as full:  # output that cannot be written is dropped
        finish(start(workdir, full))
    assert_same(workdir, whole)


def test_a_stopped_run_saves_its_state_and_resumes(whole, tmp_path):
    """With exit status 75 and one line. No checkpoint is due after steps 3 and 5: the signal saves them."""
    workdir = tmp_path / "run"
    for step, number in ((3, signal.SIGTERM), (5, signal.SIGINT)):
        process = start(workdir)
        output = signal_when(process, workdir, f"rollouts/step_00000{step}.jsonl.gz", number)
        assert process.returncode == 75 and "Traceback" not in output, output
        last = output.splitlines()[-1]
        message = (
            rf"jaxrl.train: after step ({step}|{step + 1}): stopped by {number.name}; run the same command again .*"
        )
        saved = re.fullmatch(message, last)
        assert saved and (workdir / "checkpoints" / saved.group(1)).is_dir(), last
    reader, writer = os.pipe()
    os.close(reader)
    process = start(workdir, writer)  # as if `| tee` has died
    os.close(writer)
    finish(process)
    assert_same(workdir, whole)

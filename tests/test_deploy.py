"""Launch files: their commands are ours, and a run is started again after the exit statuses that ask for it only."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from jaxrl.runtime.signals import Ended, Stopped

ROOT = Path(__file__).parents[1]
SWEEP = "--config=configs/ablations/kl.py:tiny"
PARSED = """
import importlib, sys
from absl import flags
importlib.import_module(sys.argv[1])
flags.FLAGS(sys.argv[1:])
for name in sys.stdin.read().split():
    print(flags.FLAGS[name].value)
"""


def parsed(command, *names):
    """Values of flags, as `python -m MODULE FLAGS` reads them."""
    python, dash, module, *given = command
    assert python.endswith("python") and dash == "-m"
    return subprocess.run(
        [sys.executable, "-c", PARSED, module, *given],
        cwd=ROOT,
        input=" ".join(names),
        text=True,
        capture_output=True,
        check=True,
    ).stdout.split()


def launch(tmp_path, script, status, *arguments):
    """What srun is told to run, whether the job goes back to the queue, and how the script ends where srun ends so."""
    for name, ends in (("srun", status), ("scontrol", 0)):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/{name}.told\nexit {ends}\n')
        program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "17",
        "SLURM_ARRAY_TASK_ID": "4",
        "SLURM_CPUS_PER_TASK": "8",
    }
    done = subprocess.run(["bash", script, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    told = (tmp_path / "srun.told").read_text().splitlines()
    requeued = (tmp_path / "scontrol.told").exists()
    assert not requeued or (tmp_path / "scontrol.told").read_text() == "requeue\n17\n"
    assert done.stderr == ""
    return [word for word in told if not word.startswith("--kill")], requeued, done.returncode


@pytest.mark.parametrize("script", ["deploy/slurm.sh", "deploy/sweep.sh"])
@pytest.mark.parametrize("status", [0, 1, 2, Ended.status, Stopped.status, 134])
def test_slurm_starts_again_what_was_stopped_and_nothing_else(tmp_path, script, status):
    _, requeued, ended = launch(tmp_path, script, status)
    assert (requeued, ended) == (status == Stopped.status, status)


def test_slurm_runs_our_commands(tmp_path):
    command, _, _ = launch(tmp_path, "deploy/slurm.sh", 0, "--config=configs/stage1.py:tiny", "--workdir=two words")
    assert parsed(command, "processes", "workdir") == ["None", "two", "words"]
    command, _, _ = launch(tmp_path, "deploy/sweep.sh", 0, SWEEP)
    assert command[2] == "jaxrl.sweep" and parsed(command, "index") == ["4"]


def test_the_jobset_runs_our_command_and_takes_a_refusal_and_the_guard_as_final():
    spec = yaml.safe_load((ROOT / "deploy" / "jobset.yaml").read_text(encoding="utf-8"))["spec"]
    (rule,) = spec["failurePolicy"]["rules"]
    assert rule == {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    job = spec["replicatedJobs"][0]["template"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    (container,) = job["template"]["spec"]["containers"]
    assert rule == {
        "action": "FailJob",
        "onExitCodes": {"containerName": container["name"], "operator": "In", "values": [2, Ended.status]},
    }
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # else such a policy is refused
    command = [word.replace("$(JOB_COMPLETION_INDEX)", "1") for word in container["command"]]
    assert parsed(command, "processes", "process") == [str(job["parallelism"]), "1"]

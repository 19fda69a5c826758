"""Launch files run our commands, and restart a run only after the exit statuses that ask for it."""

import importlib
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from jaxrl.runtime.signals import Ended, Stopped

ROOT = Path(__file__).parents[1]
SWEEP = "--config=configs/ablations/kl.py:tiny"


def parse(command):
    """The flags as `python -m MODULE FLAGS` reads them."""
    python, dash, module, *arguments = command
    assert python.endswith("python") and dash == "-m"
    return importlib.import_module(module).make_parser().parse_args(arguments)


def launch(tmp_path, script, status, *arguments):
    """Runs a script whose srun exits with `status`. Returns the command of srun, whether the job was requeued, and the
    exit status of the script."""
    for name, code in (("srun", status), ("scontrol", 0)):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/{name}.arguments\nexit {code}\n')
        program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "17",
        "SLURM_ARRAY_TASK_ID": "4",
        "SLURM_CPUS_PER_TASK": "8",
    }
    done = subprocess.run(["bash", script, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    command = (tmp_path / "srun.arguments").read_text().splitlines()
    requeued = (tmp_path / "scontrol.arguments").exists()
    assert not requeued or (tmp_path / "scontrol.arguments").read_text() == "requeue\n17\n"
    assert done.stderr == ""
    return [word for word in command if not word.startswith("--kill")], requeued, done.returncode


@pytest.mark.parametrize("script", ["deploy/slurm.sh", "deploy/sweep.sh"])
@pytest.mark.parametrize("status", [0, 1, 2, Ended.status, Stopped.status, 134])
def test_slurm_requeues_a_stopped_run_and_nothing_else(tmp_path, script, status):
    _, requeued, returned = launch(tmp_path, script, status)
    assert (requeued, returned) == (status == Stopped.status, status)


def test_slurm_runs_our_commands(tmp_path):
    command, _, _ = launch(tmp_path, "deploy/slurm.sh", 0, "--config=configs/stage1.py:tiny", "--workdir=two words")
    given = parse(command)
    assert given.processes is None and given.workdir == Path("two words")
    command, _, _ = launch(tmp_path, "deploy/sweep.sh", 0, SWEEP)
    assert command[2] == "jaxrl.sweep" and parse(command).index == 4


def test_the_jobset_runs_our_command_and_does_not_restart_an_error_or_a_guard_stop():
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
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # Kubernetes requires it with this policy
    command = [word.replace("$(JOB_COMPLETION_INDEX)", "1") for word in container["command"]]
    given = parse(command)
    assert (given.processes, given.process) == (job["parallelism"], 1)

"""A run of several processes has the numbers of one process with as many devices, and all processes end together."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrl.checkpointing.checkpoints import Checkpoints
from jaxrl.command_line import override_arguments
from jaxrl.learning.state import TrainState
from jaxrl.reporting.metrics import deterministic_part
from jaxrl.reporting.rollouts import rollout_path
from jaxrl.reporting.writers import read_metrics
from jaxrl.runtime.multihost import join_processes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STEPS = 3
LOST_1 = r"[Tt]ask[: ]1\b|heartbeats\):\s+1\b"  # as JAX names process 1
STAGE = {
    "steps": 1,
    "prompts": 4,
    "samples": 4,
    "pool.p3": 6,
    "sampling.max_new_tokens": 8,
    "bounds.bad_format_max": 0.0,
}
FIELDS = {
    "compile_cache": "",  # children share the cache of the tests, see conftest.py
    "devices": 0,
    "sampler.devices": 0,
    "mesh.fsdp": 2,
    "unroll": 1,
    "wandb.mode": "off",
    "checkpoint.every": 1,
    "layout.micro_tokens": 512,
    "layout.multiple": 64,
    "layout.ratio": 2.0,
    "evaluation.samples": 2,
    "evaluation.max_new_tokens": 8,
    "evaluation.pool.p2": 0,
    "evaluation.pool.p3": 3,
    "evaluation.pool.p4": 0,
    "evaluation.pool.p5": 0,
    "reward.format_wrong": -0.5,
    "guard.entropy_max": 0.0,  # a random model has the highest entropy
    **{f"stages.stage{stage}.{field}": value for stage in (1, 2, 3) for field, value in STAGE.items()},
}


class Runs:
    """Starts a run as one process with four devices, or as two processes with two devices each."""

    def __init__(self, model, folder):
        self.fields, self.folder = FIELDS | {"model": model}, folder

    def start(self, workdir, processes, slurm=False, patch=""):
        """slurm: as srun starts them, without flags. patch: code that process 0 executes first."""
        # In the environment, so that the config is the same; the other settings are those of `prepare_devices`.
        environment = os.environ | {
            "JAX_NUM_CPU_DEVICES": str(4 // processes),
            "JAX_CPU_ENABLE_ASYNC_DISPATCH": "0",
            "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
        }
        command = ["--config=configs/three_stage.py:tiny", f"--workdir={workdir}", *override_arguments(self.fields)]
        port, started = free_port(), []
        for index in range(processes):
            program, flags = ["-m", "jaxrl.train"], []
            if slurm:
                environment |= slurm_step(index, processes, port)
            elif processes > 1:
                flags = [f"--coordinator=127.0.0.1:{port}", f"--processes={processes}", f"--process={index}"]
            if patch and index == 0:
                program = ["-c", f"{patch}\nimport runpy\nrunpy.run_module('jaxrl.train', run_name='__main__')"]
            started.append(
                subprocess.Popen(
                    [sys.executable, *program, *command, *flags],
                    cwd=ROOT,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        return started

    def finish(self, workdir, processes, status=0):
        """The output of each process, after all have exited with this status."""
        return self.wait(self.start(workdir, processes), status)

    def wait(self, started, status=0):
        output = [process.communicate(timeout=500)[0] for process in started]
        assert [process.returncode for process in started] == [status] * len(started), "\n".join(output)
        return output


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def slurm_step(index, count, port):
    """The environment of a task of srun on one host. The port that Slurm would choose may be in use here."""
    return {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": str(count),
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": str(index),
        "JAX_COORDINATOR_PORT": str(port),
    }


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory):
    runs = Runs(small.base, tmp_path_factory.mktemp("processes"))
    runs.finish(runs.folder / "one", 1)
    return runs


def wait_for(started, path):
    while not path.exists():
        assert all(process.poll() is None for process in started), [process.communicate()[0] for process in started]
        time.sleep(0.01)


def assert_same(small, workdir, other):
    mine, theirs = (
        [deterministic_part(record) for record in read_metrics(folder / "metrics.jsonl")] for folder in (workdir, other)
    )
    assert [record["step"] for record in mine] == list(range(STEPS + 1))
    for one, two in zip(mine, theirs, strict=True):
        numbers = {name: value for name, value in two.items() if isinstance(value, float)}
        assert one == {
            name: pytest.approx(value, rel=1e-4, abs=1e-6) if name in numbers else value for name, value in two.items()
        }
    for step in range(1, STEPS + 1):
        first, second = (rollout_path(folder / "rollouts", step) for folder in (workdir, other))
        assert first.read_bytes() == second.read_bytes()
    for first, second in zip(small.params(workdir), small.params(other), strict=True):
        np.testing.assert_allclose(first, second, atol=1e-6)


def test_a_run_is_resumed_by_another_number_of_processes(small, runs, tmp_path):
    """One process is stopped by a signal, two started by Slurm resume and are stopped by a signal to one of them."""
    workdir = tmp_path / "run"
    for processes, step in ((1, 1), (2, 2)):
        started = runs.start(workdir, processes, slurm=processes == 2)
        wait_for(started, rollout_path(workdir / "rollouts", step))
        started[-1].send_signal(signal.SIGTERM)
        output = runs.wait(started, 75)
        assert all(re.search(r"after step \d: stopped by", text) for text in output)
    assert len(list((workdir / "checkpoints").iterdir())) >= 1
    runs.finish(workdir, 1)
    assert_same(small, workdir, runs.folder / "one")


FULL_DISK = """
from jaxrl.training.run_log import RunLog
add_metrics = RunLog.add_metrics
def full(self, record):
    if record["step"] == 1:
        raise OSError(28, "No space left on device")
    add_metrics(self, record)
RunLog.add_metrics = full
"""


def test_a_failed_process_ends_the_run_and_is_named(small, runs, tmp_path):
    """First the primary fails, which alone writes. Then the run is resumed, and the other process is killed."""
    workdir = tmp_path / "run"
    started = runs.start(workdir, 2, patch=FULL_DISK)
    output = [process.communicate(timeout=200)[0] for process in started]
    assert started[0].returncode == 2 and started[1].returncode not in (0, 75)
    last = f"process 0 on {socket.gethostname()} ends: jaxrl.train: [Errno 28] No space left on device"
    assert output[0].splitlines()[-1] == last and "Traceback" not in output[0]

    started = runs.start(workdir, 2)
    wait_for(started, workdir / "checkpoints" / "1")
    killed_at = time.monotonic()
    started[1].kill()
    started[1].communicate()
    output = started[0].communicate(timeout=500)[0]
    assert started[0].returncode not in (0, 75) and time.monotonic() - killed_at < 60
    assert re.search(LOST_1, output), output
    output = runs.finish(workdir, 2)
    assert "resuming after step" in output[0] and "resuming" not in output[1]  # only the primary logs
    assert_same(small, workdir, runs.folder / "one")
    assert (workdir / "export" / "model.safetensors").is_file() and (workdir / "report.html").is_file()


# One of two processes ends while a checkpoint is written; the other waits for it in a collective.
WORKER = """
import os, signal, sys, time
import numpy as np
from jaxrl.checkpointing.checkpoints import Checkpoints
from jaxrl.command_line import CommandParser, run
from jaxrl.learning.state import TrainState
from jaxrl.runtime import multihost
from jaxrl.runtime.multihost import any_process

folder, address, index, failing, how = os.environ["WORKER"].split()
multihost.HEARTBEAT_SECONDS = 5

def work(given):
    multihost.join_processes(address, 2, int(index))
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, TrainState(np.zeros((), np.int32), {"w": np.ones(8)}, {}), {})
        any_process(False)
        if index == failing:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "stopped":
                signal.raise_signal(signal.SIGINT)
            raise {"refusal": ValueError, "error": RuntimeError}[how]("what was wrong")
        while True:
            any_process(False)

sys.exit(run(CommandParser("work", ""), work, exit_at_signal=True))
"""


def test_if_one_process_ends_the_other_ends_within_a_minute(tmp_path):
    cases = [(failing, how) for failing in (0, 1) for how in ("refusal", "error")] + [(0, "killed"), (1, "stopped")]
    processes = {}
    for failing, how in cases:
        address = f"127.0.0.1:{free_port()}"
        for index in range(2):
            arguments = f"{tmp_path / how}{failing} {address} {index} {failing} {how}"
            processes[failing, how, index] = subprocess.Popen(
                [sys.executable, "-c", WORKER],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=os.environ | {"WORKER": arguments, "JAX_NUM_CPU_DEVICES": "1"},
            )
    try:
        output = {which: process.communicate(timeout=120)[0] for which, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
    for failing, how in cases:
        text, other = output[failing, how, failing], output[failing, how, 1 - failing]
        status = {"refusal": 2, "error": 1, "killed": -9, "stopped": 75}[how]
        assert processes[failing, how, failing].returncode == status, text
        assert processes[failing, how, 1 - failing].returncode not in (0, 2, 3, 75), other  # none that is final
        assert re.search("leader task was preempted" if failing == 0 else LOST_1, other), other
        if how == "stopped":
            last = f"process {failing} on {socket.gethostname()} ends: work: stopped by SIGINT; run the same command "
            assert text.splitlines()[-1].startswith(last) and "Traceback" not in text
        elif how != "killed":
            assert f"process {failing} on {socket.gethostname()} ends: " in text and "what was wrong" in text


JOINING = """
import os, sys
from jaxrl.command_line import CommandParser, run
from jaxrl.runtime.multihost import join_processes

def work(given):
    address, index = os.environ["WORKER"].split()
    print("joining", flush=True)
    join_processes(address, 2, int(index))

sys.exit(run(CommandParser("work", ""), work, exit_at_signal=True))
"""


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_waits_for_the_others_can_be_stopped(index):
    process = subprocess.Popen(
        [sys.executable, "-c", JOINING],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"WORKER": f"127.0.0.1:{free_port()} {index}"},
    )
    assert process.stdout.readline() == "joining\n"
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    try:
        output = process.communicate(timeout=30)[0]
    finally:
        process.kill()
    assert process.returncode == 75 and "work: stopped by SIGTERM; run the same command again to resume." in output, (
        output
    )


# Two processes open a run folder with a checkpoint of step 2. For a while the second one sees nothing of it, as it may
# happen on NFS.
STALE = """
import os, pathlib, sys, time
import orbax.checkpoint as ocp
from jaxrl.checkpointing.checkpoints import Checkpoints
from jaxrl.command_line import CommandParser, run
from jaxrl.runtime import multihost
from jaxrl.training.workdir import claim_run_folder

folder, address, index, seconds, patience = os.environ["WORKER"].split()
multihost.VISIBLE_SECONDS, multihost.HEARTBEAT_SECONDS = float(patience), 5

def hide(kind, name, value):
    real = getattr(kind, name)
    def look(self, *given, **named):
        about = str(self) if kind is pathlib.Path else "config.json"
        return value if time.monotonic() < until and "config.json" in about else real(self, *given, **named)
    setattr(kind, name, look)

def work(given):
    global until
    multihost.join_processes(address, 2, int(index))
    until = time.monotonic() + float(seconds)
    if index == "1":
        hide(pathlib.Path, "is_file", False)
        hide(pathlib.Path, "exists", False)
        hide(ocp.CheckpointManager, "_load_checkpoint_infos", [])
    with claim_run_folder(pathlib.Path(folder), {"seed": 0}):
        until = time.monotonic() + float(seconds)
        with Checkpoints(f"{folder}/checkpoints") as checkpoints:
            print(checkpoints.steps())
            multihost.broadcast_from_primary(True)

sys.exit(run(CommandParser("work", ""), work, exit_at_signal=True))
"""


@pytest.mark.parametrize(
    ("seconds", "patience", "status", "output"),
    [
        (4, 90, 0, [r"\[2\]", r"\[2\]"]),
        (60, 1, 2, [None, "ends: work: process 1 does not find .*config.json, which process 0 has written; choose a"]),
        (0, 90, 2, ["ends: work: .* got files without a config.json"] * 2),
    ],
)
def test_all_processes_see_the_folder_as_the_primary_does(tmp_path, seconds, patience, status, output):
    """If the others do not see it in time, or the primary refuses it, they end with a sentence."""
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(2, TrainState(np.zeros((), np.int32), {"w": np.ones(8)}, {}), {})
    if seconds:
        (tmp_path / "config.json").write_text('{"seed": 0}')
    address, started = f"127.0.0.1:{free_port()}", []
    for index in range(2):
        arguments = f"{tmp_path} {address} {index} {seconds} {patience}"
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", STALE],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=os.environ | {"WORKER": arguments, "JAX_NUM_CPU_DEVICES": "1"},
            )
        )
    texts = [process.communicate(timeout=200)[0] for process in started]
    for process, text, pattern in zip(started, texts, output, strict=True):
        if pattern:
            assert process.returncode == status and re.search(pattern, text), texts


@pytest.mark.parametrize("given", [("", 2, 0), ("host", 2, 0), ("host:1", 1, 0), ("host:1", 2, 2)])
def test_process_numbers_out_of_range_are_refused(given):
    with pytest.raises(ValueError, match="--coordinator=HOST:PORT, --processes=N of 2 or more"):
        join_processes(*given)
    assert jax.process_count() == 1

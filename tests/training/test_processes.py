"""Several processes make one run: the numbers of one process with as many devices, and one end for all."""

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
from jaxrl.flags import overrides
from jaxrl.learning.state import TrainState
from jaxrl.reporting.metrics import deterministic
from jaxrl.reporting.rollouts import rollout_path
from jaxrl.reporting.writers import read_metrics
from jaxrl.runtime.multihost import join_processes

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
    "guard.entropy_max": 0.0,  # a random model is as uncertain as can be
    **{f"stages.stage{stage}.{field}": value for stage in (1, 2, 3) for field, value in STAGE.items()},
}


class Runs:
    """Starts one run as one process with four devices, or as two with two each."""

    def __init__(self, model, folder):
        self.fields, self.folder = FIELDS | {"model": model, "compile_cache": folder / "cache"}, folder

    def start(self, workdir, processes, slurm=False, broken=""):
        """slurm: as srun starts them, without flags. broken: code that process 0 runs first."""
        # Set from outside, so that the config is the same; the rest as `prepare_devices` has it for several.
        environment = os.environ | {
            "JAX_NUM_CPU_DEVICES": str(4 // processes),
            "JAX_CPU_ENABLE_ASYNC_DISPATCH": "0",
            "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
        }
        command = ["--config=configs/three_stage.py:tiny", f"--workdir={workdir}", *overrides(self.fields)]
        port, started = free_port(), []
        for index in range(processes):
            begun, joined = ["-m", "jaxrl.train"], []
            if slurm:
                environment |= slurm_step(index, processes, port)
            elif processes > 1:
                joined = [f"--coordinator=127.0.0.1:{port}", f"--processes={processes}", f"--process={index}"]
            if broken and index == 0:
                begun = ["-c", f"{broken}\nimport runpy\nrunpy.run_module('jaxrl.train', run_name='__main__')"]
            started.append(
                subprocess.Popen(
                    [sys.executable, *begun, *command, *joined],
                    cwd=ROOT,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        return started

    def finish(self, workdir, processes, status=0):
        """What each said, once all have ended with this status."""
        return self.ended(self.start(workdir, processes), status)

    def ended(self, started, status=0):
        said = [process.communicate(timeout=500)[0] for process in started]
        assert [process.returncode for process in started] == [status] * len(started), "\n".join(said)
        return said


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def slurm_step(index, count, port):
    """What srun sets in task `index` of so many on one host; a port of Slurm's choice could be taken here."""
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
        [deterministic(record) for record in read_metrics(folder / "metrics.jsonl")] for folder in (workdir, other)
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


def test_a_run_changes_hands_between_one_process_and_two(small, runs, tmp_path):
    """One is stopped after a step, two that Slurm starts go on and are stopped by a signal to one, one ends it."""
    workdir = tmp_path / "run"
    for processes, step in ((1, 1), (2, 2)):
        started = runs.start(workdir, processes, slurm=processes == 2)
        wait_for(started, rollout_path(workdir / "rollouts", step))
        started[-1].send_signal(signal.SIGTERM)
        said = runs.ended(started, 75)
        assert all(re.search(r"after step \d: stopped by", text) for text in said)
    assert len(list((workdir / "checkpoints").iterdir())) >= 1
    runs.finish(workdir, 1)
    assert_same(small, workdir, runs.folder / "one")


FULL_DISK = """
from jaxrl.training.run_log import Ledger
write = Ledger.write
def full(self, record):
    if record["step"] == 1:
        raise OSError(28, "No space left on device")
    write(self, record)
Ledger.write = full
"""


def test_a_process_that_ends_takes_the_run_down_with_its_number_and_both_start_again(small, runs, tmp_path):
    """The leading one fails where the other does not write; then, when they go on, the other is killed."""
    workdir = tmp_path / "run"
    started = runs.start(workdir, 2, broken=FULL_DISK)
    said = [process.communicate(timeout=200)[0] for process in started]
    assert started[0].returncode == 2 and started[1].returncode not in (0, 75)
    last = f"process 0 on {socket.gethostname()} ends: jaxrl.train: [Errno 28] No space left on device"
    assert said[0].splitlines()[-1] == last and "Traceback" not in said[0]

    started = runs.start(workdir, 2)
    wait_for(started, workdir / "checkpoints" / "1")
    began = time.monotonic()
    started[1].kill()
    started[1].communicate()
    said = started[0].communicate(timeout=500)[0]
    assert started[0].returncode not in (0, 75) and time.monotonic() - began < 60
    assert re.search(LOST_1, said), said
    said = runs.finish(workdir, 2)
    assert "going on after step" in said[0] and "going on" not in said[1]  # one speaks
    assert_same(small, workdir, runs.folder / "one")
    assert (workdir / "export" / "model.safetensors").is_file() and (workdir / "report.html").is_file()


# One of two processes ends while a checkpoint is written, as a command that both run; the other waits for it.
WORKER = """
import os, signal, sys, time
import numpy as np
from jaxrl.flags import run
from jaxrl.checkpointing.checkpoints import Checkpoints
from jaxrl.runtime.multihost import any_process
from jaxrl.learning.state import TrainState
from jaxrl.running import devices

folder, address, index, broken, way = os.environ["WORKER"].split()
devices.HEARTBEAT = 5

def work(config):
    devices.join_processes(address, 2, int(index))
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, TrainState(np.zeros((), np.int32), {"w": np.ones(8)}, {}), {})
        any_process(False)
        if index == broken:
            if way == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if way == "stopped":
                signal.raise_signal(signal.SIGINT)
            raise {"refusal": ValueError, "error": RuntimeError}[way]("what was wrong")
        while True:
            any_process(False)

run("work", work)
"""


def test_all_ends_within_a_minute_whichever_process_ends_and_however(tmp_path):
    ways = [(broken, way) for broken in (0, 1) for way in ("refusal", "error")] + [(0, "killed"), (1, "stopped")]
    started = {}
    for broken, way in ways:
        address = f"127.0.0.1:{free_port()}"
        for index in range(2):
            told = f"{tmp_path / way}{broken} {address} {index} {broken} {way}"
            started[broken, way, index] = subprocess.Popen(
                [sys.executable, "-c", WORKER, "--config=configs/stage1.py:tiny"],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=os.environ | {"WORKER": told, "JAX_NUM_CPU_DEVICES": "1"},
            )
    try:
        said = {which: process.communicate(timeout=120)[0] for which, process in started.items()}
    finally:
        for process in started.values():
            process.kill()
    for broken, way in ways:
        text, other = said[broken, way, broken], said[broken, way, 1 - broken]
        status = {"refusal": 2, "error": 1, "killed": -9, "stopped": 75}[way]
        assert started[broken, way, broken].returncode == status, text
        assert started[broken, way, 1 - broken].returncode not in (0, 2, 3, 75), other  # none that is final
        assert re.search("leader task was preempted" if broken == 0 else LOST_1, other), other
        if way == "stopped":
            last = f"process {broken} on {socket.gethostname()} ends: work: stopped by SIGINT; start the same command "
            assert text.splitlines()[-1].startswith(last) and "Traceback" not in text
        elif way != "killed":
            assert f"process {broken} on {socket.gethostname()} ends: " in text and "what was wrong" in text


JOINING = """
import os
from jaxrl.flags import run
from jaxrl.runtime.devices import join_processes

def work(config):
    address, index = os.environ["WORKER"].split()
    print("joining", flush=True)
    join_processes(address, 2, int(index))

run("work", work)
"""


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_waits_for_the_others_can_be_stopped(index):
    process = subprocess.Popen(
        [sys.executable, "-c", JOINING, "--config=configs/stage1.py:tiny"],
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
        said = process.communicate(timeout=30)[0]
    finally:
        process.kill()
    assert process.returncode == 75 and "work: stopped by SIGTERM; start the same command again to go on." in said, said


# Two processes take a run folder that has a checkpoint of step 2; for a while the second sees nothing of it, as NFS may
# have it.
STALE = """
import os, pathlib, time
import orbax.checkpoint as ocp
from jaxrl.flags import run
from jaxrl.learning import processes
from jaxrl.checkpointing.checkpoints import Checkpoints
from jaxrl.running import devices
from jaxrl.training.workdir import claimed

folder, address, index, seconds, patience = os.environ["WORKER"].split()
processes.STALE, devices.HEARTBEAT = float(patience), 5

def hide(kind, name, value):
    real = getattr(kind, name)
    def look(self, *given, **named):
        about = str(self) if kind is pathlib.Path else "config.json"
        return value if time.monotonic() < until and "config.json" in about else real(self, *given, **named)
    setattr(kind, name, look)

def work(config):
    global until
    devices.join_processes(address, 2, int(index))
    until = time.monotonic() + float(seconds)
    if index == "1":
        hide(pathlib.Path, "is_file", False)
        hide(pathlib.Path, "exists", False)
        hide(ocp.CheckpointManager, "_load_checkpoint_infos", [])
    with claimed(pathlib.Path(folder), {"seed": 0}):
        until = time.monotonic() + float(seconds)
        with Checkpoints(f"{folder}/checkpoints") as checkpoints:
            print(checkpoints.steps())
            processes.shared(True)

run("work", work)
"""


@pytest.mark.parametrize(
    ("seconds", "patience", "status", "said"),
    [
        (4, 90, 0, [r"\[2\]", r"\[2\]"]),
        (60, 1, 2, [None, "ends: work: process 1 does not find .*config.json, which process 0 has written; choose a"]),
        (0, 90, 2, ["ends: work: .* is not empty and is no run folder"] * 2),
    ],
)
def test_all_have_the_folder_as_the_leading_one_sees_it(tmp_path, seconds, patience, status, said):
    """Of a run that goes on; what the others never see, and what the leading one refuses, they refuse in a sentence."""
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(2, TrainState(np.zeros((), np.int32), {"w": np.ones(8)}, {}), {})
    if seconds:
        (tmp_path / "config.json").write_text('{"seed": 0}')
    address, started = f"127.0.0.1:{free_port()}", []
    for index in range(2):
        told = f"{tmp_path} {address} {index} {seconds} {patience}"
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", STALE, "--config=configs/stage1.py:tiny"],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=os.environ | {"WORKER": told, "JAX_NUM_CPU_DEVICES": "1"},
            )
        )
    texts = [process.communicate(timeout=200)[0] for process in started]
    for process, text, pattern in zip(started, texts, said, strict=True):
        if pattern:
            assert process.returncode == status and re.search(pattern, text), texts


@pytest.mark.parametrize("given", [("", 2, 0), ("host", 2, 0), ("host:1", 1, 0), ("host:1", 2, 2)])
def test_numbers_that_do_not_fit_are_refused(given):
    with pytest.raises(ValueError, match="--coordinator=HOST:PORT, --processes=N of 2 or more"):
        join_processes(*given)
    assert jax.process_count() == 1

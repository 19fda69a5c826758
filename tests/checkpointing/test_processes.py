"""A checkpoint of two processes is complete if both have written their part; if one fails, both raise at once."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WORKER = """
import os, sys
import jax, numpy as np, tensorstore as ts
from jax.sharding import NamedSharding, PartitionSpec
from jaxrl.checkpointing.checkpoints import Checkpoints, CheckpointSpec
from jaxrl.learning.state import TrainState

folder, address, index = sys.argv[1], sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(address, 2, index)
split = NamedSharding(jax.make_mesh((2,), ("fsdp",)), PartitionSpec("fsdp"))

def state(step):
    whole = np.arange(8, dtype=np.float32) + step
    w = jax.make_array_from_callback((8,), split, lambda at: whole[at])
    return TrainState(np.full((), step, np.int32), {"w": w}, {})

def full(*args, **kwargs):
    raise OSError(28, "No space left on device")

def last(checkpoints):
    restored, _ = checkpoints.restore(TrainState(np.zeros((), np.int32), abstract, {}))
    return float(restored.params["w"].addressable_shards[0].data[0])

abstract = {"w": jax.ShapeDtypeStruct((8,), np.float32, sharding=split)}
with Checkpoints(folder, CheckpointSpec(keep=1)) as checkpoints:
    checkpoints.save(1, state(1), {})
    for step, (module, name, where) in enumerate(((ts, "open", 1), (ts, "open", 0), (os, "rename", 0)), start=2):
        real = getattr(module, name)
        checkpoints.wait()
        if where == index:
            setattr(module, name, full)
        try:
            checkpoints.save(step, state(step), {})
            while not checkpoints.poll():
                pass
            print(">", "complete")
        except OSError as error:
            print(">", error.strerror.split(";")[0].split(" in ")[0])
        setattr(module, name, real)
        print(">", checkpoints.steps(), sorted(os.listdir(folder)))
    checkpoints.save(5, state(5), {})
    print(">", checkpoints.steps(), last(checkpoints))
"""


def test_a_process_that_cannot_write_does_not_block_the_other(tmp_path):
    """The shards of one process, those of the primary, and the primary's final rename fail."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", WORKER, tmp_path / "checkpoints", address, str(index)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        output = [process.communicate(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], output
    lines = [[line[2:] for line in out.splitlines() if line.startswith("> ")] for out, _ in output]
    own, others = "no space left", "another process could not write its part of a checkpoint"
    left = "[1] ['1']"
    assert os.listdir(tmp_path / "checkpoints") == ["5"]  # the primary deleted the others
    assert lines[0] == [others, left, own, left, own, left, "[5] 5.0"]
    assert lines[1] == [own, left, others, left, others, left, "[5] 9.0"]

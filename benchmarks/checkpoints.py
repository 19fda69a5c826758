"""How long a save blocks a run: until the checkpoint is on disk, or only until the state is copied; A B A B.

    python benchmarks/checkpoints.py [--mebibytes=200] [--rounds=5] [--folder=FOLDER]

A float32 state of that size (weights and AdamW's two moments) is saved with the code of `jaxrl.train`, with and without
waiting for the write. The first save of each kind is not counted. For comparison, the same bytes are written by `write`
and `fsync` alone; the other times are shorter because of the disk's cache.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.checkpointing.checkpoints import Checkpoints, CheckpointSpec
from jaxrl.learning.state import TrainState

LAYERS, PARTS = 24, 7  # arrays as in a model with scanned layers


def make_state(size: int, seed: int) -> TrainState:
    """Random weights and two moments, `size` bytes in total."""
    width = size // (3 * 4 * LAYERS * PARTS * 1024)
    keys = iter(jax.random.split(jax.random.key(seed), 3 * PARTS))
    trees = [
        {f"kernel_{part}": jax.random.normal(next(keys), (LAYERS, 1024, width)) for part in range(PARTS)}
        for _ in range(3)
    ]
    return jax.block_until_ready(TrainState(jnp.zeros((), jnp.int32), trees[0], {"mu": trees[1], "nu": trees[2]}))


def seconds(act: Callable[[], None]) -> float:
    """Wall time of a call."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def write_plainly(folder: Path, state: TrainState) -> None:
    """Write the same bytes to one file."""
    with open(folder / "plain", "wb") as file:
        for leaf in jax.tree.leaves(state):
            file.write(memoryview(np.ascontiguousarray(leaf)).cast("B"))
        file.flush()
        os.fsync(file.fileno())


def main() -> None:
    """Print medians, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mebibytes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where the checkpoints are written (default: a temporary folder)")
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="checkpoints-", dir=arguments.folder))
    state, took = (
        make_state(arguments.mebibytes << 20, 0),
        {"blocked until on disk": [], "blocked until copied": [], "then on disk after": [], "write and fsync": []},
    )
    with Checkpoints(home / "run", CheckpointSpec(keep=1)) as checkpoints:
        for number in range(2 * (arguments.rounds + 1)):
            waits = number % 2 == 0

            def save(number: int = number, waits: bool = waits) -> None:
                checkpoints.save(number, state, {})
                if waits:
                    checkpoints.wait()

            elapsed = seconds(save)
            took["blocked until on disk" if waits else "blocked until copied"].append(elapsed)
            if not waits:
                took["then on disk after"].append(seconds(checkpoints.wait))
                took["write and fsync"].append(seconds(lambda: write_plainly(home, state)))
    shutil.rmtree(home)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 2**20
    print(f"{size:.0f} MiB in {len(jax.tree.leaves(state))} arrays, {arguments.rounds} rounds, {jax.default_backend()}")
    for name, times in took.items():
        print(f"{name}: {statistics.median(times[1:]):.3f} s ({min(times[1:]):.3f} to {max(times[1:]):.3f})")
    ratios = [
        late / early
        for early, late in zip(took["blocked until on disk"][1:], took["blocked until copied"][1:], strict=True)
    ]
    print(
        f"blocked for the copy / blocked for the disk: {statistics.median(ratios):.2f} ({min(ratios):.2f} to "
        f"{max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()

"""How the cost of an update scales with the number of tokens, and with the number of micro-batches.

    python benchmarks/update.py [--cores=2] [--rounds=5]

The model of benchmarks/step.py, float32, AdamW, KL. Each case alternates with the baseline: 8 rows of 320 tokens in
micro-batches of 1,280 tokens. CPU-seconds are user and system time of the process. Goal: twice the tokens at up to 2.2
times the cost, twice the micro-batches at up to 1.15 times. With twice the length, attention per token doubles as well.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from jaxrl.algorithms import RECIPES, Batch
from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.learning.micro_batches import LayoutSpec
from jaxrl.learning.optimizer import OptimizerSpec, make_optimizer
from jaxrl.learning.state import init_params, init_state
from jaxrl.learning.update import Scalars, UpdateSpec, make_update
from jaxrl.runtime.devices import prepare_devices
from models.backends import training_kernels
from models.config import Qwen2Config
from models.qwen2 import Qwen2

CONFIG = Qwen2Config(2048, 256, 1024, 6, 4, 2, 64, tie_word_embeddings=True, max_position_embeddings=1024)
ROWS, LENGTH, MICRO, PROMPT = 8, 320, 1280, 64


def make_batch(rows: int, length: int) -> Batch:
    """Random rows of the same length."""
    generator = np.random.default_rng(0)
    mask = np.zeros((rows, length), np.float32)
    mask[:, PROMPT:] = 1
    advantages = mask * generator.normal(size=(rows, 1)).astype(np.float32)
    logp = np.full((rows, length), -np.log(CONFIG.vocab_size), np.float32)
    tokens = generator.integers(1, CONFIG.vocab_size, (rows, length)).astype(np.int32)
    return Batch(tokens, np.full(rows, length, np.int32), mask, advantages, ref_logp=logp, sample_logp=logp)


def updates(rows: int, length: int, micro_tokens: int) -> Callable[[], tuple[float, float]]:
    """A function that runs one update and returns (CPU-seconds, seconds). Compiles by running it once."""
    kernels = training_kernels(jax.default_backend())
    model = Qwen2(CONFIG, unroll=CONFIG.num_hidden_layers, kernels=kernels)
    optimizer, mesh = make_optimizer(OptimizerSpec()), make_mesh(MeshSpec(), jax.devices()[:1])
    update = make_update(model, optimizer, RECIPES["grpo"], mesh, UpdateSpec(LayoutSpec((length,), micro_tokens)))
    held = [init_state(model, optimizer, mesh, init_params(model, mesh, jax.random.key(0)))]
    batch = make_batch(rows, length)

    def run() -> tuple[float, float]:
        cpu, began = time.process_time(), time.perf_counter()
        state, info = update(held.pop(), batch, Scalars(1e-6, kl_coefficient=0.04))
        jax.block_until_ready((state, info))
        held.append(state)
        return time.process_time() - cpu, time.perf_counter() - began

    run()
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])  # before XLA counts cores
    prepare_devices(0, "")
    print(f"{args.cores} cores, {args.rounds} rounds, load {os.getloadavg()[0]:.1f}", flush=True)
    base = updates(ROWS, LENGTH, MICRO)
    for name, case in (
        ("twice the rows", updates(2 * ROWS, LENGTH, MICRO)),
        ("twice the length", updates(ROWS, 2 * LENGTH, MICRO)),
        ("twice the micro-batches", updates(ROWS, LENGTH, MICRO // 2)),
    ):
        rounds = [(base(), case()) for _ in range(args.rounds)]
        for kind, unit in enumerate(("CPU-seconds", "seconds")):
            one, other = (statistics.median(pair[side][kind] for pair in rounds) for side in (0, 1))
            ratio = statistics.median(b[kind] / a[kind] for a, b in rounds)
            print(f"{name:24} {one:6.2f} -> {other:6.2f} {unit:12} x {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()

"""What the first steps of a run compile: programs by kind, and CPU-seconds of tracing, lowering and compiling.

    python benchmarks/compile.py [--config=configs/three_stage.py:tiny] [--steps=8] [--fine]

Takes the first steps of the config's first stage in a temporary folder, with an empty compilation cache and 36 held-out
problems. CPU-seconds are user and system time of the process between the beginning and the end of a stage of the
compiler, so nothing is compiled in a second thread here. --fine: the layouts of an accelerator (`few_shapes` off,
buckets of ratio 1.12 in steps of 8 tokens). Before the run, the table of shapes says how many programs rows of up to
`longest` tokens can need at most. Goal: 60 seconds of compiling in all on two cores.
"""

import argparse
import collections
import os
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.monitoring

from jaxrl.command_line import load_config, plain
from jaxrl.learning.micro_batches import LayoutSpec
from jaxrl.reporting.terminal import Terminal
from jaxrl.runtime.devices import prepare_devices
from jaxrl.sampling.sampler import default_batch_sizes, default_cache_lengths
from jaxrl.training.components import update_spec
from jaxrl.training.initial_state import resolve_init_from
from jaxrl.training.run_spec import RunSpec, run_spec
from jaxrl.training.trainer import Trainer
from models.backends import decode_kernels
from models.config import Qwen2Config
from models.source import resolve_model

KINDS = {
    "accumulate": "update",
    "logp": "log-probabilities",
    "finish": "optimizer step",
    **dict.fromkeys(
        ("prefill", "insert", "decode", "stop", "move_rows", "gather_rows", "grow", "shrink"), "sampler, {name}"
    ),
}
OTHER = "other"
STAGE, PROGRAM = "/jax/core/compile/", "backend_compile_duration"


class Costs:
    """CPU-seconds and programs by kind, from the events of the compiler. Only the outermost stage counts.

    `begin` and `end` are listeners of `jax.monitoring`.
    """

    def __init__(self) -> None:
        self.seconds, self.programs = collections.Counter[str](), collections.Counter[str]()
        self.began: list[float] = []

    def begin(self, event: str, *_: float, **__: Any) -> None:
        """A stage begins."""
        if event.startswith(STAGE):
            self.began.append(time.process_time())

    def end(self, event: str, *_: float, fun_name: str = "", **__: Any) -> None:
        """A stage ends."""
        if not event.startswith(STAGE) or not self.began:
            return
        began, name = self.began.pop(), fun_name.removeprefix("jit(").removesuffix(")")
        kind = KINDS.get(name, OTHER).format(name=name)
        if not self.began:
            self.seconds[kind] += time.process_time() - began
        self.programs[kind] += event.endswith(PROGRAM)

    def table(self) -> str:
        """Rows of the kinds, most expensive first, and their sum."""
        rows = [(kind, self.programs[kind], seconds) for kind, seconds in self.seconds.most_common()]
        rows.append(("sum", self.programs.total(), self.seconds.total()))
        return "\n".join(f"{kind:24} {count:4} programs {seconds:7.1f} CPU-s" for kind, count, seconds in rows)


class ShapeCounts(NamedTuple):
    """Programs by kind, one for each shape."""

    update: int
    logp: int
    decode: int


def count_shapes(spec: RunSpec, config: Qwen2Config, longest: int) -> ShapeCounts:
    """The programs that rows of up to `longest` tokens can need at most."""
    layout: LayoutSpec = update_spec(spec, longest).layout
    kernels, sampler = decode_kernels(jax.default_backend()), spec.sampler
    caches = default_cache_lengths(kernels, sampler.rows, config.num_attention_heads, longest, few=sampler.few_shapes)
    sizes = default_batch_sizes(kernels, config, sampler.rows, caches[0], few=sampler.few_shapes)
    return ShapeCounts(len(layout.shapes(1)), len(layout.for_forward().shapes(1)), len(caches) * len(sizes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/three_stage.py:tiny")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--fine", action="store_true")
    args = parser.parse_args()
    config = load_config(args.config).value
    with tempfile.TemporaryDirectory() as folder:
        config.workdir, config.compile_cache, config.export = f"{folder}/run", f"{folder}/cache", False
        config.wandb.mode = "off"
        for kind in config.evaluation.pool:
            config.evaluation.pool[kind] = min(config.evaluation.pool[kind], 9)
        config.layout.compile_ahead = False
        if args.fine:
            config.layout.update(dict(multiple=8, ratio=1.12, shortest=48, few_shapes=False))
            config.sampler.few_shapes = False
        fields = plain(config)
        name, stage = min(fields["stages"].items())
        fields["stages"] = {name: stage | {"steps": args.steps}}
        prepare_devices(fields["devices"], fields["compile_cache"], fields["sampler"]["devices"])
        spec = run_spec(fields)
        costs, cpu, wall = Costs(), time.process_time(), time.perf_counter()
        jax.monitoring.register_scalar_listener(costs.begin)
        jax.monitoring.register_event_duration_secs_listener(costs.end)
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
        with Terminal(spec.total_steps) as terminal:
            trainer = Trainer(resolve_init_from(spec), Path(resolve_model(spec.model.path)), terminal, fields)
            for longest in (256, 512, 1024):
                print(f"longest {longest:5}: {count_shapes(spec, trainer.components.config, longest)}", flush=True)
            trainer.train()
        print(costs.table())
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        print(f"{'run':24} {args.steps:4} steps    {cpu:7.1f} CPU-s {wall:7.1f} s")


if __name__ == "__main__":
    main()

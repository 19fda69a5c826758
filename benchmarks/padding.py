"""The share of padding in the learner's batches, simulated: random row lengths, split as the shipped configs do.

    python benchmarks/padding.py [--steps=40] [--micro-tokens=8192] [--multiple=128]

Prompts of 300 to 400 tokens, shared by 16 samples, and log-normal responses of up to 2,048 tokens; four row shards, as
on four GPUs. Every optimizer step of a rollout is split separately. Columns: mean padding share over the rollouts (the
largest in parentheses), micro-batches per rollout, and shapes over all rollouts, each a program to compile. No model is
run.
"""

import argparse

import numpy as np

from configs import stage1, stage2, stage3
from jaxrl.command_line import plain
from jaxrl.learning.micro_batches import LayoutSpec, padding_share, split_into_micro_batches
from jaxrl.training.components import update_spec
from jaxrl.training.run_spec import run_spec

SHARDS, LONGEST, PROMPTS, SHARED, SPREAD = 4, 2048, (300, 400), 16, 0.8


def random_lengths(seed: int, rows: int, median: int) -> np.ndarray:
    """Tokens of each row, prompt and response."""
    generator = np.random.default_rng(seed)
    prompts = generator.integers(*PROMPTS, rows // SHARED).repeat(SHARED)
    return prompts + np.clip(generator.lognormal(np.log(median), SPREAD, rows), 4, LONGEST).astype(np.int64)


def simulate(rollouts: list[np.ndarray], layout: LayoutSpec, minibatches: int) -> str:
    """A line of the table, for one number of optimizer steps per rollout."""
    micro_batches = [
        [
            micro
            for part in np.array_split(lengths, minibatches)
            for micro in split_into_micro_batches(part, layout, SHARDS)
        ]
        for lengths in rollouts
    ]
    shares = [*map(padding_share, rollouts, micro_batches)]
    shapes = {(micro.size, micro.length) for step in micro_batches for micro in step}
    return (
        f"{np.mean(shares):6.1%} ({max(shares):5.1%}) {np.mean([*map(len, micro_batches)]):5.0f} micro-batches "
        f"{len(shapes):4} shapes"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--micro-tokens", type=int, help="overrides the config")
    parser.add_argument("--multiple", type=int, help="overrides the config")
    args = parser.parse_args()
    for stage in (stage1, stage2, stage3):
        config = stage.get_config()
        config.layout.update(
            {field: getattr(args, field) for field in ("micro_tokens", "multiple") if getattr(args, field) is not None}
        )
        spec = run_spec(plain(config))
        rows = spec.stages[0].prompts * spec.stages[0].samples
        layout = update_spec(spec, PROMPTS[1] + LONGEST).layout
        for median in (400, 650):
            rollouts = [random_lengths(seed, rows, median) for seed in range(args.steps)]
            for minibatches in (1, 2, 4):
                print(
                    f"{config.name}: {rows} rows, median {median}, {minibatches} optimizer steps  "
                    f"{simulate(rollouts, layout, minibatches)}",
                    flush=True,
                )


if __name__ == "__main__":
    main()

"""How much of what the learner computes is padding, simulated: rows of drawn lengths, cut up as shipped configs say.

    python benchmarks/padding.py [--steps=40] [--micro_tokens=8192] [--multiple=128]

Prompts of 300 to 400 tokens, shared by 16 samples, and log-normal responses of at most 2,048; four row shards, as on
four GPUs. Every optimizer step of a rollout is cut up by itself. Shares are means over the rollouts, the largest in
brackets; then micro-batches a rollout, and shapes over all of them, each a program to compile. No model runs.
"""

import argparse

import numpy as np

from configs import stage1, stage2, stage3
from jaxrl.flags import plain
from jaxrl.learning.micro_batches import LayoutSpec, cut, padding_share
from jaxrl.training.components import update_spec
from jaxrl.training.run_spec import run_spec

SHARDS, LONGEST, PROMPTS, SHARED, SPREAD = 4, 2048, (300, 400), 16, 0.8


def drawn_lengths(seed: int, rows: int, median: int) -> np.ndarray:
    """Tokens of each row, prompt and response."""
    generator = np.random.default_rng(seed)
    asked = generator.integers(*PROMPTS, rows // SHARED).repeat(SHARED)
    return asked + np.clip(generator.lognormal(np.log(median), SPREAD, rows), 4, LONGEST).astype(np.int64)


def simulate(rollouts: list[np.ndarray], layout: LayoutSpec, minibatches: int) -> str:
    """The table's line for one number of optimizer steps a rollout."""
    pieces = [
        [piece for part in np.array_split(lengths, minibatches) for piece in cut(part, layout, SHARDS)]
        for lengths in rollouts
    ]
    shares = [*map(padding_share, rollouts, pieces)]
    shapes = {(piece.size, piece.length) for found in pieces for piece in found}
    return (
        f"{np.mean(shares):6.1%} ({max(shares):5.1%}) {np.mean([*map(len, pieces)]):5.0f} micro-batches "
        f"{len(shapes):4} shapes"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--micro_tokens", type=int, help="in place of the config's")
    parser.add_argument("--multiple", type=int, help="in place of the config's")
    given = parser.parse_args()
    for stage in (stage1, stage2, stage3):
        config = stage.get_config()
        config.layout.update(
            {
                field: getattr(given, field)
                for field in ("micro_tokens", "multiple")
                if getattr(given, field) is not None
            }
        )
        spec = run_spec(plain(config))
        rows = spec.stages[0].prompts * spec.stages[0].samples
        layout = update_spec(spec, PROMPTS[1] + LONGEST).layout
        for median in (400, 650):
            rollouts = [drawn_lengths(seed, rows, median) for seed in range(given.steps)]
            for minibatches in (1, 2, 4):
                print(
                    f"{config.name}: {rows} rows, median {median}, {minibatches} optimizer steps  "
                    f"{simulate(rollouts, layout, minibatches)}",
                    flush=True,
                )


if __name__ == "__main__":
    main()

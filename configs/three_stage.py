"""The whole recipe in one run: three stages of GRPO on knights-and-knaves puzzles, 400 steps, no cold start.

Purpose: a model that reasons without having seen demonstrations.
Cost: at 7B on 4 x A100-80GB at least 8.7 hours (`jaxrl.plan`, not timed); with `:tiny` minutes on a laptop's CPU.
Expected: at 7B, as reported elsewhere, held-out accuracy 0.2 -> 0.41 and mean response 400 -> 650 tokens. With `:tiny`
    see README.md.
Command: python -m jaxrl.train --config=configs/three_stage.py[:tiny]
"""

from ml_collections import ConfigDict

from configs import base, stage1, stage2, stage3


def get_config(size: str = "") -> ConfigDict:
    """The three stages in `stages`."""
    stages = {
        name: module.get_stage(size) for name, module in (("stage1", stage1), ("stage2", stage2), ("stage3", stage3))
    }
    return base.staged(stages, "three_stage", size)

"""Compare all recipes of docs/algorithms.md, each as in its paper.

Four optimizer steps per rollout: with one step all ratios are 1, and recipes that differ only in clipping are equal.
The learning rate is that of stage 1 for all, tuned for none.
Cost: 10 settings x 3 seeds of stage 1: 50 steps of 8 x 32 responses each; with `:tiny` 20 steps of 16 x 16.
Command: python -m jaxrl.sweep --config=configs/ablations/algorithm.py[:tiny]
"""

from ml_collections import ConfigDict

from configs import base, stage1

# The rows of jaxrl.algorithms.recipes.RECIPES; a test compares the two.
ROWS = ("grpo", "dr_grpo", "dapo", "gspo", "cispo", "reinforce_pp", "reinforce_pp_baseline", "rloo", "remax", "ppo")


def get_config(size: str = "") -> ConfigDict:
    """Stage 1 with four optimizer steps per rollout."""
    config = base.swept(stage1.get_config(size), "algorithm", size)
    config.algorithm.minibatches = 4
    if size != base.TINY:  # 64 rows per optimizer step on four devices: small micro-batches, or over 10 % is padding
        config.layout.update(dict(micro_tokens=6_144, multiple=64))
    return config


def get_sweep(size: str = "") -> dict:
    """One setting per recipe."""
    del size
    return {"settings": {name: {"algorithm.recipe": name} for name in ROWS}, "seeds": (0, 1, 2)}

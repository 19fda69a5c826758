"""Every row of the table of algorithms (docs/algorithms.md), as its paper has it.

Four optimizer steps a rollout: with one, every ratio is 1, and rows that differ in their clipping are the same. The
rate is that of stage 1 for all, tuned for none.
Cost: 10 settings x 3 seeds of stage 1: 50 steps of 8 x 32 responses each; with `:tiny` 20 steps of 16 x 16.
Command: python -m jaxrl.sweep --config=configs/ablations/algorithm.py[:tiny]
"""

from ml_collections import ConfigDict

from configs import base, stage1

# The rows of jaxrl.algorithms.recipes.RECIPES; a test holds them together.
ROWS = ("grpo", "dr_grpo", "dapo", "gspo", "cispo", "reinforce_pp", "reinforce_pp_baseline", "rloo", "remax", "ppo")


def get_config(size: str = "") -> ConfigDict:
    """Stage 1 with four optimizer steps a rollout."""
    config = base.swept(stage1.get_config(size), "algorithm", size)
    config.algorithm.minibatches = 4
    if size != base.TINY:  # 64 rows an optimizer step on four devices: cut finely, or over a tenth is padding
        config.layout.update(dict(micro_tokens=6_144, multiple=64))
    return config


def get_sweep(size: str = "") -> dict:
    """One setting a row."""
    del size
    return {"settings": {name: {"algorithm.recipe": name} for name in ROWS}, "seeds": (0, 1, 2)}

"""Every row of the table of algorithms, with the clipping and the KL weight of its paper.

Four optimizer steps a rollout: with one, every ratio is 1, and rows that differ in their clipping are the same. The
rate is that of stage 1 for all, tuned for none.
Cost: 8 settings x 3 seeds of stage 1: 50 steps of 8 x 32 responses each; with `:tiny` 20 steps of 16 x 16.
Command: python -m jaxrl.sweep --config=configs/ablations/algorithm.py[:tiny]
"""

from ml_collections import ConfigDict

from configs import base, stage1

# What a row of jaxrl.algorithms.recipes.RECIPES has besides its name and is set by the run; tests hold them together.
ROWS = {
    "grpo": {"kl_coefficient": 0.001},
    "dr_grpo": {},
    "dapo": {"algorithm.clip_high": 0.28},
    "gspo": {"algorithm.clip_low": 3e-4, "algorithm.clip_high": 4e-4},
    "cispo": {"algorithm.clip_high": 4.0},
    "reinforce_pp": {"kl_coefficient": 0.01},
    "reinforce_pp_baseline": {"kl_coefficient": 0.001},
    "rloo": {"kl_coefficient": 0.05},
}


def get_config(size: str = "") -> ConfigDict:
    """Stage 1 with four optimizer steps a rollout."""
    config = base.swept(stage1.get_config(size), "algorithm", size)
    config.algorithm.minibatches = 4
    return config


def get_sweep(size: str = "") -> dict:
    """One setting a row."""
    del size
    return {"settings": {name: {"algorithm.recipe": name} | fields for name, fields in ROWS.items()},
            "seeds": (0, 1, 2)}

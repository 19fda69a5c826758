"""Group size: 256 responses per step, as many prompts with few samples or as few prompts with many samples.

Few samples give a noisy baseline and many groups with equal rewards; few prompts give little variety in a step.
Cost: 4 settings x 3 seeds of stage 1: 50 steps of 256 responses each; with `:tiny` 20 steps.
Command: python -m jaxrl.sweep --config=configs/ablations/samples.py[:tiny]
"""

from ml_collections import ConfigDict

from configs import base, stage1

RESPONSES = 256  # per step


def get_config(size: str = "") -> ConfigDict:
    """Stage 1."""
    return base.swept(stage1.get_config(size), "samples", size)


def get_sweep(size: str = "") -> dict:
    """The same number of responses in groups of different sizes."""
    del size
    settings = {
        f"{samples}_samples": {"samples": samples, "prompts": RESPONSES // samples} for samples in (4, 8, 16, 32)
    }
    return {"settings": settings, "seeds": (0, 1, 2)}

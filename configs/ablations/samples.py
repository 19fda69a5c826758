"""Samples of a prompt: the same 256 responses a step as many prompts with few samples, or few prompts with many.

Few samples give a poor baseline and many groups without any difference in reward; few prompts a narrow step.
Cost: 4 settings x 3 seeds of stage 1: 50 steps of 256 responses each; with `:tiny` 20 steps.
Command: python -m jaxrl.sweep --config=configs/ablations/samples.py[:tiny]
"""

from ml_collections import ConfigDict

from configs import base, stage1

RESPONSES = 256  # of a step


def get_config(size: str = "") -> ConfigDict:
    """Stage 1."""
    return base.swept(stage1.get_config(size), "samples", size)


def get_sweep(size: str = "") -> dict:
    """The same number of responses, divided in other ways."""
    del size
    settings = {
        f"{samples}_samples": {"samples": samples, "prompts": RESPONSES // samples} for samples in (4, 8, 16, 32)
    }
    return {"settings": settings, "seeds": (0, 1, 2)}

"""Sampling temperature in training: if it is too low there is no exploration, if it is too high responses break down.

Held-out responses are sampled at temperature 1 in all settings. Reported elsewhere, at 7B: 1.2 works, 1.5 collapses.
Cost: 4 settings x 3 seeds of stage 1: 50 steps of 8 x 32 responses each; with `:tiny` 20 steps of 16 x 16.
Command: python -m jaxrl.sweep --config=configs/ablations/temperature.py[:tiny]
"""

from ml_collections import ConfigDict

from configs import base, stage1


def get_config(size: str = "") -> ConfigDict:
    """Stage 1."""
    return base.swept(stage1.get_config(size), "temperature", size)


def get_sweep(size: str = "") -> dict:
    """A constant temperature."""
    del size
    settings = {
        f"t{value}": {"sampling.temperature": value, "sampling.temperature_end": value}
        for value in (0.7, 1.0, 1.2, 1.5)
    }
    return {"settings": settings, "seeds": (0, 1, 2)}

"""KL coefficient: without a KL to the model before training the policy drifts, a large one holds it back.

Cost: 4 settings x 3 seeds of stage 1: 50 steps of 8 x 32 responses each; with `:tiny` 20 steps of 16 x 16.
Command: python -m jaxrl.sweep --config=configs/ablations/kl.py[:tiny]
"""

from ml_collections import ConfigDict

from configs import base, stage1


def get_config(size: str = "") -> ConfigDict:
    """Stage 1."""
    return base.swept(stage1.get_config(size), "kl", size)


def get_sweep(size: str = "") -> dict:
    """The weight of the k3 estimator in the loss; with 0 the KL is still measured."""
    del size
    settings = {f"kl{value:g}": {"kl_coefficient": value} for value in (0.0, 0.001, 0.01, 0.1)}
    return {"settings": settings, "seeds": (0, 1, 2)}

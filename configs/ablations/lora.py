"""LoRA of rank 8 and 32 on all linear layers, or full fine-tuning.

Adapters use ten times the learning rate, reported elsewhere as best for them (Schulman et al. 2025, "LoRA Without
Regret").
Cost: 3 settings x 3 seeds of stage 1: 50 steps of 8 x 32 responses each; with `:tiny` 20 steps of 16 x 16.
Command: python -m jaxrl.sweep --config=configs/ablations/lora.py[:tiny]
"""

from ml_collections import ConfigDict

from configs import base, stage1


def get_config(size: str = "") -> ConfigDict:
    """Stage 1."""
    return base.swept(stage1.get_config(size), "lora", size)


def get_sweep(size: str = "") -> dict:
    """The rank; 0 trains all weights, with the learning rate of the stage."""
    learning_rate = get_config(size).learning_rate.value
    settings = {
        f"rank{rank}": {"lora.rank": rank, "learning_rate.value": 10 * learning_rate if rank else learning_rate}
        for rank in (0, 8, 32)
    }
    return {"settings": settings, "seeds": (0, 1, 2)}

"""Reward format and answer, or the answer alone: is a format reward needed to keep the format?

Held-out responses are scored by the strict rule in both settings; the accuracy among well-formed responses compares the
answers. A response without the tags counts as bad format in the table, even if its last words are correct.
Cost: 2 settings x 3 seeds of stage 1: 50 steps of 8 x 32 responses each; with `:tiny` 20 steps of 16 x 16.
Command: python -m jaxrl.sweep --config=configs/ablations/format_reward.py[:tiny]
"""

from ml_collections import ConfigDict

from configs import base, stage1


def get_config(size: str = "") -> ConfigDict:
    """Stage 1, evaluated with the strict rule."""
    config = base.swept(stage1.get_config(size), "format_reward", size)
    config.evaluation.rule = "strict-2"
    return config


def get_sweep(size: str = "") -> dict:
    """The rule of the training reward."""
    del size
    return {
        "settings": {"strict": {"reward.rule": "strict-2"}, "answer_only": {"reward.rule": "answer-only-2"}},
        "seeds": (0, 1, 2),
    }

"""Paid for format and answer, or for the answer alone: does the form have to be rewarded to be kept?

Held-out answers are judged by the strict rule for both, whatever they were trained with; the accuracy among well-formed
answers tells who is right where the form holds. A response without the tags is bad format in the table even where
its last words are right.
Cost: 2 settings x 3 seeds of stage 1: 50 steps of 8 x 32 responses each; with `:tiny` 20 steps of 16 x 16.
Command: python -m jaxrl.sweep --config=configs/ablations/format_reward.py[:tiny]
"""

from ml_collections import ConfigDict

from configs import base, stage1


def get_config(size: str = "") -> ConfigDict:
    """Stage 1, evaluated by the strict rule."""
    config = base.swept(stage1.get_config(size), "format_reward", size)
    config.evaluation.rule = "strict-1"
    return config


def get_sweep(size: str = "") -> dict:
    """The rule that training rewards by."""
    del size
    return {
        "settings": {"strict": {"reward.rule": "strict-1"}, "answer_only": {"reward.rule": "answer-only-1"}},
        "seeds": (0, 1, 2),
    }

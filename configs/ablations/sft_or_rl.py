"""Shown how, or only judged: supervised training on the solver's responses beside reinforcement, from one model.

After Chu et al. 2025 (arXiv 2501.17161), who ask what either does to problems unlike the training ones: all settings
train on puzzles of three people and are evaluated on these and on another size, with `:tiny` two people, else five.
Model, pool of problems, steps, rate and optimizer are the same. What can't all be equal at once is how much is learned
from: `sft` has as many responses a step as `rl`, each to a problem of its own; `sft_same_problems` has the problems of
`rl`, one response to each. Reinforcement also computes more for a response: sampling and the reference are about 4 N
operations a token on top of 6 N, for a model of N parameters. And only the lessons carry knowledge: they are written by
a solver that tries every case. Rates are those of stage 1, tuned for none; see --config.learning_rate.value.
Cost: 3 settings x 3 seeds of stage 1: 50 steps of 256 responses (`sft_same_problems`: 8); with `:tiny` 20 steps of 256
(16). Without sampling a step takes about half the time.
Command: python -m jaxrl.sweep --config=configs/ablations/sft_or_rl.py[:tiny]
"""

from ml_collections import ConfigDict

from configs import base, stage1


def get_config(size: str = "") -> ConfigDict:
    """Stage 1, evaluated on the way."""
    config = base.swept(stage1.get_config(size), "sft_or_rl", size)
    config.evaluation.every = 10
    if size == base.TINY:
        config.sampling.max_new_tokens = 416  # the solver's longest responses have nearly 400 tokens
    return config


def get_sweep(size: str = "") -> dict:
    """Reinforcement as stage 1 has it, and lessons: as many responses, or to the same problems."""
    stage = stage1.get_stage(size)
    taught = {"algorithm.recipe": "sft", "samples": 1}
    return {
        "settings": {"rl": {}, "sft": taught | {"prompts": stage.prompts * stage.samples}, "sft_same_problems": taught},
        "seeds": (0, 1, 2),
    }

"""Supervised fine-tuning on demonstrations of the solver, or reinforcement learning, from the same model.

After Chu et al. 2025 (arXiv 2501.17161), who compare how both generalize: all settings train on puzzles of three people
and are evaluated on these and on another size (two people with `:tiny`, else five). Model, pool, steps, learning rate
and optimizer are equal. The amount of training data can't be equal in every respect: `sft` has as many responses per
step as `rl`, each to a different problem; `sft_same_problems` has the problems of `rl`, with one response to each.
Reinforcement learning also computes more per response: sampling and the reference take about 4 N operations per token
in addition to 6 N, for N parameters. And only demonstrations add knowledge: the solver that writes them tries every
case. The learning rate is that of stage 1, tuned for none; see --config.learning_rate.value.
Cost: 3 settings x 3 seeds of stage 1: 50 steps of 256 responses (`sft_same_problems`: 8); with `:tiny` 20 steps of 256
    (16). A step without sampling takes about half the time.
Command: python -m jaxrl.sweep --config=configs/ablations/sft_or_rl.py[:tiny]
"""

from ml_collections import ConfigDict

from configs import base, stage1


def get_config(size: str = "") -> ConfigDict:
    """Stage 1, evaluated every ten steps."""
    config = base.swept(stage1.get_config(size), "sft_or_rl", size)
    config.evaluation.every = 10
    if size == base.TINY:
        config.sampling.max_new_tokens = 416  # the longest demonstrations have nearly 400 tokens
    return config


def get_sweep(size: str = "") -> dict:
    """Reinforcement learning as in stage 1; demonstrations, as many or for the same problems."""
    stage = stage1.get_stage(size)
    sft = {"algorithm.recipe": "sft", "samples": 1}
    return {
        "settings": {"rl": {}, "sft": sft | {"prompts": stage.prompts * stage.samples}, "sft_same_problems": sft},
        "seeds": (0, 1, 2),
    }

"""GRPO on datasets of the package reasoning-gym, which also verifies the answers.

Needs: pip install 'jaxrl[gym]'. The kinds in `pool` are the package's dataset names.
Cost: 200 steps of 8 x 16 responses; not timed.
Command: python -m jaxrl.train --config=configs/gym.py[:1.5b]
"""

from ml_collections import ConfigDict

from configs import base


def get_config(size: str = "") -> ConfigDict:
    """One stage on three datasets."""
    stage = base.get_stage()
    stage.steps, stage.prompts, stage.samples = 200, 8, 16
    stage.pool = ConfigDict({"chain_sum": 1000, "leg_counting": 1000, "word_sorting": 1000})
    stage.sampling.max_new_tokens = 1024
    config = base.single(stage, "gym", size)
    config.task = ConfigDict(dict(name="gym", splits={"train": 0.8, "test": 0.2}, split_seed=0))
    config.reward.rule = "verified-2"
    config.evaluation.update(dict(samples=4, max_new_tokens=1024))
    config.evaluation.pool = ConfigDict({"chain_sum": 50, "leg_counting": 50, "word_sorting": 50})
    return config

"""GRPO on grade-school arithmetic: questions from files in GSM8K's format, rewarded for format and the number.

Files: JSON lines with `question` and `answer`, the answer ending in `#### number`, at the paths in `task.files`. An
answer that is not one number is refused before the run starts.
Cost: 200 steps of 8 x 16 responses; not timed.
Command: python -m jaxrl.train --config=configs/gsm8k.py[:1.5b]
"""

from ml_collections import ConfigDict

from configs import base


def get_config(size: str = "") -> ConfigDict:
    """One stage on the training file, evaluated on the test file."""
    stage = base.get_stage()
    stage.steps, stage.prompts, stage.samples = 200, 8, 16
    stage.pool = ConfigDict({"gsm8k": 7000})
    stage.sampling.max_new_tokens = 1024
    config = base.single(stage, "gsm8k", size)
    config.task = ConfigDict(
        dict(
            name="gsm8k",
            # kind -> split -> path
            files={"gsm8k": {"train": "data/gsm8k/train.jsonl", "test": "data/gsm8k/test.jsonl"}},
        )
    )
    config.reward.rule = "gsm8k-2"
    config.evaluation.update(dict(samples=4, max_new_tokens=1024))
    config.evaluation.pool = ConfigDict({"gsm8k": 500})
    return config

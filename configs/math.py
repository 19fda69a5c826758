"""GRPO on mathematics with answers in LaTeX: questions from files in GSM8K's format, judged by math-verify.

Needs: pip install 'jaxrl[math]'.
Files: JSON lines with `question` and `answer`, at the paths in `task.files`. The answer is the final one, such as
`\\frac{1}{2}`, `(-\\infty, 3]` or `\\text{Monday}`, or a solution that ends in a box with it or in `####` and it.
Cost: 200 steps of 8 x 16 responses; not timed.
Command: python -m jaxrl.train --config=configs/math.py[:1.5b]
"""

from ml_collections import ConfigDict

from configs import gsm8k


def get_config(size: str = "") -> ConfigDict:
    """The run of `configs/gsm8k.py` with other files and the rule for expressions."""
    config = gsm8k.get_config(size)
    config.name, config.workdir = "math", "runs/math" + (f"_{size}" if size else "")
    config.task.files = ConfigDict({"math": {"train": "data/math/train.jsonl", "test": "data/math/test.jsonl"}})
    config.reward.rule = "math-1"
    config.pool = ConfigDict({"math": 7000})
    config.evaluation.pool = ConfigDict({"math": 500})
    return config

"""GRPO on knights-and-knaves puzzles of files: those of `data_gen.build`, or of the published data set.

Files: at the paths in `task.files`, which are those of
`hf download K-and-K/knights-and-knaves --repo-type=dataset --local-dir=data/knights_and_knaves` (CC BY-NC-SA 4.0).
Cost: 200 steps of 8 x 16 responses; not timed.
Command: python -m jaxrl.train --config=configs/puzzle_files.py[:1.5b]
"""

from ml_collections import ConfigDict

from configs import base

FOLDER = "data/knights_and_knaves"


def get_config(size: str = "") -> ConfigDict:
    """One stage on puzzles of three to five people."""
    stage = base.get_stage()
    stage.steps, stage.prompts, stage.samples = 200, 8, 16
    stage.pool = ConfigDict({"p3": 500, "p4": 500, "p5": 500})
    config = base.single(stage, "puzzle_files", size)
    config.task = ConfigDict(
        dict(
            name="puzzle_files",
            files={  # kind -> split -> path; p3: the puzzles of the file with three people
                f"p{people}": {
                    "train": f"{FOLDER}/train/people{people}_num1000.jsonl",
                    "test": f"{FOLDER}/test/people{people}_num100.jsonl",
                }
                for people in (3, 4, 5)
            },
        )
    )
    config.evaluation.pool = ConfigDict({"p3": 80, "p4": 80, "p5": 80})
    return config

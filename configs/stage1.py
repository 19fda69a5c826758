"""Stage 1: a few 3-person puzzles, default sampling; the model learns the format, its shortest responses grow.

Cost: 50 steps of 8 x 32 responses; at 7B on 4 x A100-80GB at least 66 s a step (`jaxrl.plan`, not timed), an hour.
Expected: at 7B, reported elsewhere: format errors fall from most to few. With `:tiny`: 31 % -> 4 %, right 22 % -> 86 %.
`:tiny` is the embedded model on a CPU, `:1.5b` and the like another size.
Command: python -m jaxrl.train --config=configs/stage1.py[:tiny]
"""

from ml_collections import ConfigDict

from configs import base


def get_stage(size: str = "") -> ConfigDict:
    """The stage's own fields."""
    stage = base.get_stage(size)
    if size == base.TINY:
        stage.steps = 10
    return stage


def get_config(size: str = "") -> ConfigDict:
    """The stage as a run of its own."""
    return base.single(get_stage(size), "stage1", size)

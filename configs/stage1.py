"""Stage 1: few 3-person puzzles, sampled at temperature 1. The model learns the format, and short responses get longer.

Cost: 50 steps of 8 x 32 responses; at 7B on 4 x A100-80GB at least 61 s per step (`jaxrl.plan`, not timed), one hour.
Expected: at 7B, as reported elsewhere, format errors fall from most responses to few. With `:tiny` they fall from 31 %
    to 4 %, and accuracy rises from 22 % to 86 %.
Sizes: `:tiny` is the embedded model on a CPU, `:1.5b` and others are in configs/base.py.
Command: python -m jaxrl.train --config=configs/stage1.py[:tiny]
"""

from ml_collections import ConfigDict

from configs import base


def get_stage(size: str = "") -> ConfigDict:
    """The fields of the stage."""
    stage = base.get_stage(size)
    if size == base.TINY:
        stage.steps = 10
    return stage


def get_config(size: str = "") -> ConfigDict:
    """The stage as a separate run."""
    return base.single(get_stage(size), "stage1", size)

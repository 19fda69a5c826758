"""Stage 2: 5-person puzzles at temperature 1.2. The longest stage, and the one most likely to collapse (1.5 does).

Cost: 250 steps of 8 x 64 responses; at 7B on 4 x A100-80GB at least 95 s per step (`jaxrl.plan`, not timed), 6.6
    hours.
Expected: at 7B, as reported elsewhere, responses get longer and the reward rises slowly. With `:tiny` accuracy rises
    from 82 % to 93 %. The embedded model stays at 3-person puzzles: it tries all cases, of which five people have 32.
Command: python -m jaxrl.train --config=configs/stage2.py[:tiny], after stage 1 (or with --config.init_from=RUN)
"""

from ml_collections import ConfigDict

from configs import base


def get_stage(size: str = "") -> ConfigDict:
    """The fields of the stage."""
    stage = base.get_stage(size)
    stage.steps = 250
    stage.pool = ConfigDict({"p5": 1000})
    stage.samples = 64
    stage.sampling.update(dict(temperature=1.2, temperature_end=1.2, top_p=0.98, top_k=100))
    stage.bounds.bad_format_max = 0.8  # the format was learned in stage 1
    if size == base.TINY:
        stage.steps = 20
        stage.pool, stage.samples = ConfigDict({"p3": 600}), 16
        stage.sampling.update(dict(temperature=1.1, temperature_end=1.1, top_p=1.0, top_k=0))
    return stage


def get_config(size: str = "") -> ConfigDict:
    """The stage as a separate run, from the weights of stage 1."""
    config = base.single(get_stage(size), "stage2", size)
    config.init_from = "runs/stage1" + (f"_{size}" if size else "")
    return config

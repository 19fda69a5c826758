"""Curriculum: easy puzzles in stage 1, or the problems of stage 2 from the first step. All else is equal.

At 7B the easy puzzles have three people and the others five; with `:tiny` two and three. The shipped stages of the
embedded model have one pool, so its stage 1 gets two-person puzzles here, of which there are few.
Cost: 2 settings x 3 seeds of the three stages: 400 steps each; with `:tiny` 40 steps of 16 x 16 responses.
Command: python -m jaxrl.sweep --config=configs/ablations/curriculum.py[:tiny]
"""

from ml_collections import ConfigDict

from configs import base, three_stage

# Every stage has a field for each kind, so that a setting can change the number of problems of both.
POOLS = {
    "": {"stage1": {"p3": 500, "p5": 0}, "stage2": {"p3": 0, "p5": 1000}, "stage3": {"p3": 0, "p5": 400}},
    base.TINY: {"stage1": {"p2": 20, "p3": 0}, "stage2": {"p2": 0, "p3": 600}, "stage3": {"p2": 0, "p3": 600}},
}


def get_config(size: str = "") -> ConfigDict:
    """The three stages, with easy puzzles in the first."""
    config = base.swept(three_stage.get_config(size), "curriculum", size)
    for stage, pool in _pools(size).items():
        config.stages[stage].pool = ConfigDict(pool)
    return config


def get_sweep(size: str = "") -> dict:
    """The base run, and the same with one pool for all stages."""
    pool = _pools(size)["stage2"]
    one = {f"stages.{stage}.pool.{kind}": count for stage in _pools(size) for kind, count in pool.items()}
    return {"settings": {"easy_first": {}, "one_pool": one}, "seeds": (0, 1, 2)}


def _pools(size: str) -> dict:
    return POOLS.get(size, POOLS[""])

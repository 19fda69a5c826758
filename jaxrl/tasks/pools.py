"""Pools: the problems of a run's stages and of its evaluation, and which of them each step uses."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrl.tasks.overlap import refuse_overlap
from jaxrl.tasks.problem import Problem, kind_order
from jaxrl.tasks.task import Pool, Task


def stages_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Stage name -> its config. A config without `stages` is itself the only stage."""
    return config["stages"] if "stages" in config else {config["name"]: config}


def pool_table(name: str, table: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """{"p3": 600, "p2": 0} -> (("p3", 600),): the kinds in order, without those of 0. name: the stage, for errors."""
    if not any(table.values()) or any(count < 0 or count != int(count) for count in table.values()):
        raise ValueError(f"{name}.pool: expected integers of 0 or more, at least one above 0, got {table}.")
    return tuple((kind, count) for kind, count in sorted(table.items(), key=lambda pair: kind_order(pair[0])) if count)


def select_problems(
    task: Task, held_out: Pool, pools: Mapping[str, Pool], seed: int
) -> tuple[list[Problem], dict[str, list[Problem]]]:
    """The held-out problems, and the training problems of each stage without any that is held out.

    pools: stage name -> pool. Raises ValueError if the task returns an excluded problem.
    """
    evaluation = task.select("test", held_out, seed)
    exclude = {problem.form for problem in evaluation}
    training = {name: task.select("train", pool, seed, exclude) for name, pool in pools.items()}
    refuse_overlap(evaluation, [problem for pool in training.values() for problem in pool])
    return evaluation, training


def epoch_indices(pool_size: int, prompts: int, seed: Sequence[int], step: int) -> np.ndarray:
    """Indices [prompts] of the problems of a step (from 0): each epoch is another permutation of the pool.

    Problems left over at the end of an epoch are skipped, so no step uses a problem twice.
    """
    steps = pool_size // prompts
    epoch, index = divmod(step, steps)
    order = np.random.Generator(np.random.PCG64(np.random.SeedSequence([*seed, epoch]))).permutation(pool_size)
    return order[index * prompts : (index + 1) * prompts]

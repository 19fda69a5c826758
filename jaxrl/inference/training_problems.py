"""The training problems of a run, from its config alone."""

from collections.abc import Iterator, Mapping
from typing import Any

from jaxrl.inference.load import is_run, stored_config
from jaxrl.tasks.pools import pool_table, select_problems, stages_of
from jaxrl.tasks.problem import Problem
from jaxrl.tasks.registry import make_task


def training_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """The problems in the pools of all stages, and those of the run that it started from (`init_from`).

    Raises what the task raises, for example if its data is not found any more.
    """
    if config.get("init_from") and is_run(config["init_from"]):
        yield from training_problems(stored_config(config["init_from"]))
    task = make_task(config["task"], config["reward"]["rule"])
    held_out = pool_table("evaluation", config["evaluation"]["pool"])
    stages = {name: pool_table(name, stage["pool"]) for name, stage in stages_of(config).items()}
    for pool in select_problems(task, held_out, stages, config["seed"])[1].values():
        yield from pool

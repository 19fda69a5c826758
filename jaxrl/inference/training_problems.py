"""What a run was trained on, from its config alone."""

from collections.abc import Iterator, Mapping
from typing import Any

from jaxrl.inference.load import is_run, stored_config
from jaxrl.tasks.problem import Problem
from jaxrl.tasks.registry import make_task
from jaxrl.tasks.task import pool_table


def training_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """The problems that every stage drew from, and those of the run that it went on from (`init_from`).

    Raises what the task raises where its data is not there any more.
    """
    if config.get("init_from") and is_run(config["init_from"]):
        yield from training_problems(stored_config(config["init_from"]))
    task = make_task(config["task"], config["reward"]["rule"])
    held_out = task.select("test", pool_table("evaluation", config["evaluation"]["pool"]), config["seed"])
    known = {problem.form for problem in held_out}
    stages = config["stages"] if "stages" in config else {config["name"]: config}
    for name, stage in stages.items():
        yield from task.select("train", pool_table(name, stage["pool"]), config["seed"], known)

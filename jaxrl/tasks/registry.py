"""The tasks that `config.task.name` selects."""

from collections.abc import Mapping
from typing import Any

from jaxrl.rewards import RULES
from jaxrl.tasks.gsm8k import FileTask
from jaxrl.tasks.knights_and_knaves import PuzzleTask
from jaxrl.tasks.reasoning_gym import GymTask
from jaxrl.tasks.task import Task

TASKS: dict[str, type[Task]] = {"knights_and_knaves": PuzzleTask, "gsm8k": FileTask, "gym": GymTask}


def make_task(fields: Mapping[str, Any], rule: str) -> Task:
    """The task of `config.task`. Raises ValueError where the name, a field or the rule does not fit."""
    fields = dict(fields)
    name = fields.pop("name", None)
    if name not in TASKS:
        raise ValueError(f"task.name: expected one of {', '.join(TASKS)}, got {name!r}.")
    task = TASKS[name].from_fields(fields)
    check_rule("reward.rule", rule, name, task)
    return task


def check_rule(field: str, rule: str, name: str, task: Task) -> None:
    """Raises ValueError, naming the config's field, where the rule can't judge the task called `name`."""
    if rule not in RULES or RULES[rule].needs != task.answers:
        fitting = ", ".join(row for row, known in RULES.items() if known.needs == task.answers)
        raise ValueError(f"{field}: expected a rule that can judge the task {name!r} ({fitting}), got {rule!r}.")

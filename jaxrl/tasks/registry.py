"""The registry of tasks: `config.task.name` -> class."""

from collections.abc import Mapping
from typing import Any

from jaxrl.rewards import RULES
from jaxrl.tasks.gsm8k import FileTask
from jaxrl.tasks.knights_and_knaves import PuzzleTask
from jaxrl.tasks.puzzle_files import PuzzleFileTask
from jaxrl.tasks.reasoning_gym import GymTask
from jaxrl.tasks.task import Task

TASKS: dict[str, type[Task]] = {
    "knights_and_knaves": PuzzleTask,
    "puzzle_files": PuzzleFileTask,
    "gsm8k": FileTask,
    "gym": GymTask,
}


def make_task(fields: Mapping[str, Any], rule: str) -> Task:
    """The task of `config.task`. Raises ValueError for an unknown name, a wrong field or a rule that can't judge it."""
    fields = dict(fields)
    name = fields.pop("name", None)
    if name not in TASKS:
        raise ValueError(f"task.name: expected one of {', '.join(TASKS)}, got {name!r}.")
    task = TASKS[name].from_fields(fields)
    check_rule("reward.rule", rule, name, task)
    return task.judged_by(rule)


def check_rule(field: str, rule: str, name: str, task: Task) -> None:
    """Raises ValueError, with the name of the config field, if the rule can't judge the task `name`, or not here."""
    if rule not in RULES or RULES[rule].needs != task.answers:
        suitable = ", ".join(row for row, known in RULES.items() if known.needs == task.answers)
        raise ValueError(f"{field}: expected a rule that can judge the task {name!r} ({suitable}), got {rule!r}.")
    missing = RULES[rule].check_installed()
    if missing:
        raise ValueError(f"{field}: for the rule {rule}, {missing}.")

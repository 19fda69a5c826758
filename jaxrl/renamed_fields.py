"""Former names of config fields, of their values and of flags."""

from collections.abc import Mapping
from typing import Any

RENAMED: dict[str, str] = {
    "config.algorithm.advantage=taught": "config.algorithm.advantage=supervised",
    "config.guard.remedy=rate": "config.guard.remedy=learning_rate",
    "config.guard.remedy=skip": "config.guard.remedy=reseed",
    "config.phases.habit.ways": "config.phases.habit.styles",
    "config.phases.skill.ways": "config.phases.skill.styles",
    "config.save_minutes": "config.checkpoint.every (in steps)",
}
"""Old -> new: `config.FIELD`, `config.FIELD=VALUE` or `--FLAG`. A stage's fields are without `stages.NAME`."""


def renamed(path: str, value: Any = None) -> str:
    """A sentence with the new name of a config field or of its value; "" where neither was renamed."""
    names = path.split(".")
    prefix = ".".join(names[:2]) + "." if names[0] == "stages" and len(names) > 2 else ""
    for old in (f"config.{path.removeprefix(prefix)}", f"config.{path.removeprefix(prefix)}={value}"):
        if old in RENAMED:
            old, new = (f"config.{prefix}{name.removeprefix('config.')}" for name in (old, RENAMED[old]))
            return f"{old} was renamed to {new}."
    return ""


def check_renamed(fields: Mapping[str, Any], prefix: str = "") -> None:
    """Raises ValueError for the first field of a config, given as nested dicts, that has an old name or value."""
    for name, value in fields.items():
        if sentence := renamed(prefix + name, value):
            raise ValueError(sentence)
        if isinstance(value, Mapping):
            check_renamed(value, f"{prefix}{name}.")

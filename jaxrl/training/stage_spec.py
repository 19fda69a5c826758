"""One stage of a run, from its config."""

import dataclasses
import math
import re
from typing import Any

from jaxrl.algorithms.advantages import Needs
from jaxrl.algorithms.losses import LossSpec
from jaxrl.algorithms.schedules import ScheduleSpec
from jaxrl.sampling.types import MAX_INT32, MIN_TEMPERATURE
from jaxrl.tasks.pools import pool_table
from jaxrl.training.guard import GuardSpec


@dataclasses.dataclass(frozen=True)
class UntilSpec:
    """When a stage ends early: sampled held-out accuracy of `kind` is at least `accuracy` (0: never) in this number of
    consecutive evaluations."""

    accuracy: float
    kind: str
    evaluations: int

    @property
    def metric(self) -> str:
        """The metric that has the accuracy."""
        return f"evaluation/{self.kind}/sampled/accuracy"


@dataclasses.dataclass(frozen=True)
class StageSpec:
    """One stage of at most `steps` steps.

    pool: (kind, number of problems) pairs. prompts, samples: problems per step, and responses to each. Schedules count
    the stage's steps from 0.
    """

    name: str
    steps: int
    until: UntilSpec
    pool: tuple[tuple[str, int], ...]
    prompts: int
    samples: int
    temperature: ScheduleSpec
    top_k: ScheduleSpec
    top_p: ScheduleSpec
    min_p: ScheduleSpec
    max_new_tokens: int
    learning_rate: ScheduleSpec
    kl_coefficient: float
    fresh_optimizer: bool
    guard: GuardSpec

    def __post_init__(self):
        for field, least in (("steps", 1), ("prompts", 1), ("samples", 1), ("max_new_tokens", 1)):
            if getattr(self, field) < least:
                raise ValueError(f"{self.name}.{field}: expected {least} or more, got {getattr(self, field)}.")
        pool = sum(count for _, count in self.pool)
        if pool < self.prompts:
            raise ValueError(
                f"{self.name}.prompts: expected at most {pool}, the problems in the stage's pool, got {self.prompts}; "
                "raise the counts in `pool` or lower `prompts`."
            )

    @property
    def truncates(self) -> bool:
        """Whether any step samples with top-k, top-p or min-p."""
        off = ((self.top_k, 0), (self.top_p, 1), (self.min_p, 0))
        return any(value != neutral for schedule, neutral in off for value in _ends(schedule))


def stage_order(stage: tuple[str, Any]) -> list[tuple[int, str]]:
    """Sort key that puts stage2 before stage10: numbers within names compare as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", stage[0])]


def stage_spec(name: str, c: dict[str, Any], loss: LossSpec, guard: GuardSpec) -> StageSpec:
    """The specification of a stage. Raises ValueError naming the field that does not fit."""
    sampling, steps = c["sampling"], c["steps"]
    start, end = sampling["temperature"], sampling["temperature_end"]
    if not all(MIN_TEMPERATURE <= value < math.inf for value in (start, end)):
        raise ValueError(
            f"{name}.sampling.temperature: expected at least {MIN_TEMPERATURE} in training, got {start} to {end}."
        )
    temperature = _linear(start, end, steps)
    if c["samples"] < 2 and (loss.needs is Needs.GROUP or loss.drop_equal):
        raise ValueError(
            f"{name}.samples: expected 2 or more, as this algorithm compares the samples of a problem, "
            f"got {c['samples']}; raise it, or choose reinforce_pp, remax or ppo."
        )
    if loss.needs is Needs.SOLVER and (c["samples"], start, end) != (1, 1, 1):
        raise ValueError(
            f"{name}: expected samples=1 and sampling.temperature=1 with demonstrations, which are not sampled, "
            f"got {c['samples']} and {start} to {end}."
        )
    learning_rate = dict(c["learning_rate"])
    learning_rate["drops"] = tuple(tuple(drop) for drop in learning_rate["drops"])
    coefficient = loss.kl_coefficient if c["kl_coefficient"] is None else c["kl_coefficient"]
    if not 0 <= coefficient < math.inf:
        raise ValueError(f"{name}.kl_coefficient: expected 0 or more, got {coefficient}.")
    if c["kl_coefficient"] and loss.kl_placement == "none":
        raise ValueError(
            f"{name}.kl_coefficient: expected none, as this algorithm has no KL, got {coefficient}; set "
            "algorithm.kl_placement to loss or reward."
        )
    bounds = {bound: value for bound, value in c["bounds"].items() if value is not None}
    schedule_steps = steps if learning_rate["kind"] in ("linear", "cosine") else 0
    return StageSpec(
        name=name,
        steps=steps,
        until=UntilSpec(**c["until"]),
        pool=pool_table(name, c["pool"]),
        prompts=c["prompts"],
        samples=c["samples"],
        temperature=temperature,
        **_truncation(name, sampling, steps),
        max_new_tokens=sampling["max_new_tokens"],
        learning_rate=ScheduleSpec(steps=schedule_steps, **learning_rate),
        kl_coefficient=coefficient,
        fresh_optimizer=c["fresh_optimizer"],
        guard=dataclasses.replace(guard, **bounds, stage_fields=tuple(bounds)),
    )


def _truncation(name: str, sampling: dict[str, Any], steps: int) -> dict[str, ScheduleSpec]:
    """The schedules of top_k, top_p and min_p over a stage. Raises ValueError for a value out of range."""
    schedules = {}
    for field, low, high, expected in (
        ("top_k", 0, MAX_INT32, "0 (off) or more"),
        ("top_p", 1e-6, 1, "above 0, up to 1"),
        ("min_p", 0, 1, "0 (off) to 1"),
    ):
        start, end = sampling[field], sampling[f"{field}_end"]
        end = start if end is None else end
        if not low <= min(start, end) <= max(start, end) <= high:
            raise ValueError(f"{name}.sampling.{field}: expected {expected}, got {start} to {end}.")
        if field == "top_k" and (start == 0) != (end == 0):
            raise ValueError(
                f"{name}.sampling.top_k: expected 0 (off) at both ends of the stage, or 1 or more at both, "
                f"got {start} to {end}."
            )
        schedules[field] = _linear(start, end, steps)
    return schedules


def _linear(start: int | float, end: int | float, steps: int) -> ScheduleSpec:
    start, end = float(start), float(end)
    return ScheduleSpec(start) if start == end else ScheduleSpec(start, "linear", end=end, steps=steps)


def _ends(schedule: ScheduleSpec) -> tuple[float, ...]:
    return (schedule.value,) if schedule.kind == "constant" else (schedule.value, schedule.end)

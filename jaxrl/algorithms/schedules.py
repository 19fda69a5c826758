"""Schedules of the learning rate and the temperature, evaluated on the host.

The values are traced scalars of the compiled update, so no new value, stage or schedule recompiles it.
"""

import dataclasses
import math
from collections.abc import Callable

KINDS = ("constant", "linear", "cosine", "steps")


@dataclasses.dataclass(frozen=True)
class ScheduleSpec:
    """A value as a function of the step of a stage.

    kind: "constant"; "linear" or "cosine", from `value` to `end` over `steps` steps including the warm-up, so that
      step `steps` has the value `end`; "steps", `value` until the first of `drops`, then the value of the last drop
      reached.
    warmup: steps of linear warm-up; step `warmup - 1` has the full value.
    drops: pairs (step, value) in increasing order of step, for kind "steps" only.
    """

    value: float
    kind: str = "constant"
    end: float = 0.0
    steps: int = 0
    warmup: int = 0
    drops: tuple[tuple[int, float], ...] = ()

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"schedule kind: expected one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.kind in ("linear", "cosine") and self.steps <= self.warmup:
            raise ValueError(
                f"a {self.kind} schedule needs more steps than warm-up steps, got steps={self.steps} and "
                f"warmup={self.warmup}; set steps to the length of the stage"
            )
        values = (self.value, self.end, *(value for _, value in self.drops))
        if not all(0 <= value < math.inf for value in values) or self.warmup < 0:
            raise ValueError(f"schedule: expected values and warm-up steps of 0 or more, got {self}")
        at = [step for step, _ in self.drops]
        if at != sorted(set(at)):
            raise ValueError(f"schedule drops: expected increasing steps, got {at}")
        if bool(self.drops) != (self.kind == "steps"):
            raise ValueError(
                "schedule drops: expected a list of (step, value) with kind 'steps' and none with other kinds, got "
                f"kind {self.kind!r} with {self.drops}"
            )


def make_schedule(spec: ScheduleSpec) -> Callable[[int], float]:
    """`schedule(step) -> value`, on the host. `step` counts from 0."""

    def schedule(step: int) -> float:
        if step < spec.warmup:
            return spec.value * (step + 1) / spec.warmup
        if spec.kind == "constant":
            return spec.value
        if spec.kind == "steps":
            return ([spec.value] + [value for at, value in spec.drops if step >= at])[-1]
        progress = min(1.0, (step - spec.warmup) / (spec.steps - spec.warmup))
        weight = 1.0 - progress if spec.kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
        return spec.end + (spec.value - spec.end) * weight

    return schedule

"""Values that change with the step (learning rate, temperature, KL coefficient), as numbers made on the host.

They enter the compiled update as traced scalars: another value, stage or schedule compiles nothing.
"""

import dataclasses
import math
from collections.abc import Callable

KINDS = ("constant", "linear", "cosine", "steps")


@dataclasses.dataclass(frozen=True)
class ScheduleSpec:
    """One value over the steps of a stage.

    kind: "constant"; "linear" or "cosine" from `value` to `end` over `steps` steps, warm-up included, so that step
      `steps`, the first behind them, would be the first with `end`;
    "steps": `value` until the first of `drops`, then the value of the last drop reached.
    warmup: number of first steps over which the value rises linearly; step `warmup - 1` has the full value.
    drops: pairs (step, value), for kind "steps" only, steps rising.
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
            raise ValueError(f"schedule drops: expected rising steps, got {at}")
        if bool(self.drops) != (self.kind == "steps"):
            raise ValueError(
                f"schedule drops belong to kind 'steps' and only there, got {self.kind!r} with {self.drops}"
            )


def make_schedule(spec: ScheduleSpec) -> Callable[[int], float]:
    """`schedule(step) -> value` on the host; `step` counts from 0."""

    def schedule(step: int) -> float:
        if step < spec.warmup:
            return spec.value * (step + 1) / spec.warmup
        if spec.kind == "constant":
            return spec.value
        if spec.kind == "steps":
            return ([spec.value] + [value for at, value in spec.drops if step >= at])[-1]
        done = min(1.0, (step - spec.warmup) / (spec.steps - spec.warmup))
        left = 1.0 - done if spec.kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
        return spec.end + (spec.value - spec.end) * left

    return schedule

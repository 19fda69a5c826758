"""Schedules at the first step, the end of warm-up, the last step, and after it."""

import math

import pytest

from jaxrl.algorithms.schedules import ScheduleSpec, make_schedule

pytestmark = pytest.mark.check


def values(spec, steps):
    return [make_schedule(spec)(step) for step in steps]


def test_constant_with_warmup():
    assert values(ScheduleSpec(1.0, warmup=4), (0, 1, 3, 4, 99)) == [0.25, 0.5, 1.0, 1.0, 1.0]


def test_linear_and_cosine_reach_their_end():
    linear = ScheduleSpec(1.2, "linear", end=0.8, steps=10)
    assert values(linear, (0, 5, 10, 50)) == pytest.approx([1.2, 1.0, 0.8, 0.8])
    cosine = ScheduleSpec(1.0, "cosine", end=0.2, steps=12, warmup=2)
    assert values(cosine, (0, 1, 2, 7, 12, 50)) == pytest.approx([0.5, 1.0, 1.0, 0.6, 0.2, 0.2])


def test_steps_apply_drops():
    spec = ScheduleSpec(1e-6, "steps", drops=((10, 5e-7), (20, 2e-7)))
    assert values(spec, (0, 9, 10, 19, 20, 99)) == [1e-6, 1e-6, 5e-7, 5e-7, 2e-7, 2e-7]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "exp"}, "expected one of constant"),
        ({"kind": "linear", "steps": 3, "warmup": 3}, "needs more steps than warm-up"),
        ({"kind": "linear", "steps": 3, "end": math.nan}, "expected values and warm-up steps of 0 or more"),
        ({"drops": ((5, math.inf),), "kind": "steps"}, "expected values and warm-up steps of 0 or more"),
        ({"kind": "steps", "drops": ((5, 1.0), (5, 0.5))}, "increasing steps"),
        ({"drops": ((5, 1.0),)}, r"expected a list of \(step, value\) with kind 'steps'"),
        ({"kind": "steps"}, r"expected a list of \(step, value\) with kind 'steps'"),
    ],
)
def test_invalid_schedules_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ScheduleSpec(1.0, **fields)

"""How far a run is: the plain numbers that a checkpoint keeps, and the step that follows from them.

Nothing else decides which step comes next, so a run that was started again takes the steps of one that never stopped.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrl.algorithms.schedules import make_schedule
from jaxrl.training.guard import GuardSpec
from jaxrl.training.run_spec import StageSpec


class Progress(NamedTuple):
    """After `step` steps.

    stage, place: index of the stage that the next step belongs to, and how many of its steps are done.
    passed: the stage's last evaluations in a row that reached its `until.accuracy`.
    trips: how often the guard undid steps; draw: how often it changed their draws; rate, temperature: its factors.
    """

    step: int = 0
    stage: int = 0
    place: int = 0
    passed: int = 0
    trips: int = 0
    draw: int = 0
    rate: float = 1.0
    temperature: float = 1.0


class StepPlan(NamedTuple):
    """What one step does: number `step` (from 1), number `place` (from 0) of its stage; `draw`: see `draw_seed`.

    rate: the guard's factor of all learning rates; `learning_rate` has it in it.
    """

    step: int
    stage: StageSpec
    place: int
    draw: int
    rate: float
    learning_rate: float
    temperature: float
    top_k: int
    top_p: float
    min_p: float


def plan_step(stages: Sequence[StageSpec], progress: Progress) -> StepPlan:
    """The step after `progress`, which is not at the end of the run."""
    stage, place = stages[progress.stage], progress.place
    rate = make_schedule(stage.learning_rate)(place) * progress.rate
    temperature = make_schedule(stage.temperature)(place) * progress.temperature
    return StepPlan(
        progress.step + 1, stage, place, progress.draw, progress.rate, rate, temperature, *_truncation(stage, place)
    )


def stored_plan(stages: Sequence[StageSpec], record: Mapping[str, Any]) -> StepPlan:
    """The step that wrote this line of metrics.jsonl."""
    stage = next(stage for stage in stages if stage.name == record["stage"])
    rate = record.get("guard/rate", 1.0)  # older versions did not write it; nothing that is drawn depends on it
    return StepPlan(
        record["step"],
        stage,
        record["stage_step"] - 1,
        record["guard/draw"],
        rate,
        record["learning_rate"],
        record["temperature"],
        *_truncation(stage, record["stage_step"] - 1),
    )


def _truncation(stage: StageSpec, place: int) -> tuple[int, float, float]:
    """top_k, top_p and min_p of a step."""
    return (
        round(make_schedule(stage.top_k)(place)),
        make_schedule(stage.top_p)(place),
        make_schedule(stage.min_p)(place),
    )


def advance(stages: Sequence[StageSpec], progress: Progress, record: Mapping[str, Any]) -> Progress:
    """After one more step with this record; the stage ends with its steps, or where its `until` is reached."""
    stage = stages[progress.stage]
    until, passed = stage.until, progress.passed
    if until.accuracy and until.metric in record:
        passed = passed + 1 if record[until.metric] >= until.accuracy else 0
    step, place = progress.step + 1, progress.place + 1
    if place == stage.steps or (until.accuracy and passed == until.evaluations):
        return progress._replace(step=step, stage=progress.stage + 1, place=0, passed=0)
    return progress._replace(step=step, place=place, passed=passed)


def gone_back(spec: GuardSpec, saved: Progress, now: Progress) -> Progress:
    """Where a run whose guard tripped at `now` goes on: at the checkpoint's `saved`, with one more remedy in force.

    Where no step lies between the two, a lower rate alone would sample the refused step's tokens again, from the same
    weights; so that it does not trip in the same way, it is drawn anew, too.
    """
    back = saved._replace(trips=now.trips + 1, draw=now.draw, rate=now.rate, temperature=now.temperature)
    remedies = {
        "skip": {"draw": now.draw + 1},
        "rate": {"rate": now.rate * spec.factor, "draw": now.draw + (now.step == saved.step)},
        "temperature": {"temperature": now.temperature * spec.factor},
    }
    return back._replace(**remedies[spec.remedy])


def draw_seed(seed: int, draw: int) -> int:
    """The seed that problems and tokens are drawn from: the run's own, until the guard asks for others."""
    return int(np.random.SeedSequence([seed, draw]).generate_state(1)[0] >> 1) if draw else seed

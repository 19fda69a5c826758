"""How far a run is, and the step that comes next.

Both are plain numbers that a checkpoint stores. Nothing else decides the next step, so a resumed run takes the same
steps as one that was never interrupted.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrl.algorithms.schedules import make_schedule
from jaxrl.training.guard import GuardSpec
from jaxrl.training.stage_spec import StageSpec


class Progress(NamedTuple):
    """State of the run's schedule after `step` steps.

    stage: index of the stage that the next step belongs to. stage_step: steps of it already taken.
    passed: how many of the latest evaluations, in a row, reached the stage's `until.accuracy`.
    trips: how many steps the guard rejected. reseeds: how often it changed the seed. learning_rate_scale,
    temperature_scale: its factors on the schedules.
    """

    step: int = 0
    stage: int = 0
    stage_step: int = 0
    passed: int = 0
    trips: int = 0
    reseeds: int = 0
    learning_rate_scale: float = 1.0
    temperature_scale: float = 1.0


def read_progress(note: Mapping[str, Any]) -> Progress:
    """The progress that a checkpoint stores. Raises ValueError if another version of jaxrl wrote it."""
    if set(note) != set(Progress._fields):
        raise ValueError(
            f"checkpoint: expected a note with {', '.join(Progress._fields)}, got {', '.join(sorted(note))}; another "
            "version wrote it. Resume with the commit in the run's manifest.json, or start in a new --workdir."
        )
    return Progress(**note)


class StepPlan(NamedTuple):
    """All settings of one step.

    step: its number in the run, from 1. stage_step: its number in the stage, from 0.
    seed: of its problems and samples, see `reseed`. learning_rate and temperature include the guard's factors.
    """

    step: int
    stage: StageSpec
    stage_index: int
    stage_step: int
    seed: int
    reseeds: int
    learning_rate_scale: float
    learning_rate: float
    temperature: float
    top_k: int
    top_p: float
    min_p: float


def plan_step(stages: Sequence[StageSpec], progress: Progress, seed: int) -> StepPlan:
    """The step after `progress`, which must not be the end of the run."""
    stage, stage_step = stages[progress.stage], progress.stage_step
    return StepPlan(
        progress.step + 1,
        stage,
        progress.stage,
        stage_step,
        reseed(seed, progress.reseeds),
        progress.reseeds,
        progress.learning_rate_scale,
        make_schedule(stage.learning_rate)(stage_step) * progress.learning_rate_scale,
        make_schedule(stage.temperature)(stage_step) * progress.temperature_scale,
        *_truncation(stage, stage_step),
    )


def stored_plan(stages: Sequence[StageSpec], record: Mapping[str, Any], seed: int) -> StepPlan:
    """The plan of the step that wrote this line of metrics.jsonl."""
    index = [stage.name for stage in stages].index(record["stage"])
    stage_step = record["stage_step"] - 1
    return StepPlan(
        record["step"],
        stages[index],
        index,
        stage_step,
        reseed(seed, record["guard/reseeds"]),
        record["guard/reseeds"],
        record["guard/learning_rate_scale"],
        record["learning_rate"],
        record["temperature"],
        *_truncation(stages[index], stage_step),
    )


def _truncation(stage: StageSpec, stage_step: int) -> tuple[int, float, float]:
    """top_k, top_p and min_p of a step."""
    return (
        round(make_schedule(stage.top_k)(stage_step)),
        make_schedule(stage.top_p)(stage_step),
        make_schedule(stage.min_p)(stage_step),
    )


def advance(stages: Sequence[StageSpec], progress: Progress, record: Mapping[str, Any]) -> Progress:
    """Progress after one more step with these metrics. A stage ends with its last step or once `until` is reached."""
    stage = stages[progress.stage]
    until, passed = stage.until, progress.passed
    if until.accuracy and until.metric in record:
        passed = passed + 1 if record[until.metric] >= until.accuracy else 0
    step, stage_step = progress.step + 1, progress.stage_step + 1
    if stage_step == stage.steps or (until.accuracy and passed == until.evaluations):
        return progress._replace(step=step, stage=progress.stage + 1, stage_step=0, passed=0)
    return progress._replace(step=step, stage_step=stage_step, passed=passed)


def roll_back(spec: GuardSpec, saved: Progress, current: Progress) -> Progress:
    """Progress after the guard rejected the step after `current`: the checkpoint's, `saved`, with the remedy applied.

    spec.remedy: any but "stop". If the checkpoint is of the step before the rejected one, a lower learning rate alone
    would sample the same tokens again from the same weights; the step is therefore reseeded as well.
    """
    restored = saved._replace(
        trips=current.trips + 1,
        reseeds=current.reseeds,
        learning_rate_scale=current.learning_rate_scale,
        temperature_scale=current.temperature_scale,
    )
    remedies = {
        "reseed": {"reseeds": current.reseeds + 1},
        "learning_rate": {
            "learning_rate_scale": current.learning_rate_scale * spec.factor,
            "reseeds": current.reseeds + (current.step == saved.step),
        },
        "temperature": {"temperature_scale": current.temperature_scale * spec.factor},
    }
    return restored._replace(**remedies[spec.remedy])


def reseed(seed: int, reseeds: int) -> int:
    """The seed of a step's problems and samples: the run's own, or a new one after the guard reseeded the run."""
    return int(np.random.SeedSequence([seed, reseeds]).generate_state(1)[0] >> 1) if reseeds else seed

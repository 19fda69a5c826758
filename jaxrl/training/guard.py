"""The guard: bounds on a step's metrics, and what is stored of a step that leaves them.

A trip is one rejection of a step. Trips are counted from 1; folder guard/trip_N has the step of trip N.
"""

import dataclasses
import json
import math
import operator
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrl.algorithms.batch import Batch
from jaxrl.evaluation.intervals import Estimate, clustered_proportion
from jaxrl.reporting.files import open_atomic, to_line, write_text
from jaxrl.reporting.rollouts import GroupRecord, write_rollouts

TRY_FLOAT32 = "run with dtype=float32 and attention=plain to see whether precision is the cause."
REMEDIES = ("reseed", "learning_rate", "temperature", "stop")


class _Band(NamedTuple):
    """A metric, its bounds as fields of GuardSpec, its description, and what to do if it leaves them."""

    metric: str
    low: str
    high: str
    description: str
    advice: str


_BANDS = (
    _Band(
        "loss/kl",
        "",
        "kl_max",
        "the KL to the reference (nats per token)",
        "lower learning_rate or raise kl_coefficient",
    ),
    _Band(
        "entropy",
        "entropy_min",
        "entropy_max",
        "the entropy (nats per token)",
        "lower learning_rate; raise sampling.temperature if it is too low, lower it if it is too high",
    ),
    _Band(
        "behaviour/repetition",
        "",
        "repetition_max",
        "the share of responses that repeat themselves",
        "lower learning_rate or sampling.max_new_tokens",
    ),
    _Band(
        "share/bad_format",
        "",
        "bad_format_max",
        "the share of responses with format errors",
        "lower sampling.temperature or learning_rate",
    ),
    _Band(
        "length/mean",
        "length_min",
        "length_max",
        "the mean length (tokens)",
        "lower learning_rate; lower sampling.temperature if it is too high",
    ),
)
# Metrics that must be finite, and what to lower if they are not.
_FINITE = {
    "loss/total": "learning_rate",
    "gradient_norm": "learning_rate",
    "update_norm": "learning_rate",
    "loss/kl": "learning_rate",
    "entropy": "learning_rate",
    "reward/mean": "learning_rate",
    "critic/loss": "algorithm.critic_learning_rate",
    "critic/gradient_norm": "algorithm.critic_learning_rate",
}


@dataclasses.dataclass(frozen=True)
class GuardSpec:
    """Bounds (0: off), and the remedy if a step leaves them; `configs/base.py` describes each field.

    stage_fields: the bounds that come from the stage's `bounds`, not from `guard`.
    """

    remedy: str
    factor: float
    retries: int
    kl_max: float
    entropy_min: float
    entropy_max: float
    repetition_max: float
    bad_format_max: float
    length_min: float
    length_max: float
    suspects_warn: float
    sound_warn: float
    sound_steps: int
    stage_fields: tuple[str, ...] = ()

    def __post_init__(self):
        if self.remedy not in REMEDIES:
            raise ValueError(f"guard.remedy: expected one of {', '.join(REMEDIES)}, got {self.remedy!r}.")
        if not 0 < self.factor < 1 or self.retries < 0:
            raise ValueError(
                f"guard: expected a factor between 0 and 1 and retries of 0 or more, got {self.factor} "
                f"and {self.retries}."
            )
        for field in ("suspects_warn", "sound_warn"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"guard.{field}: expected a share of 0 (off) to 1, got {getattr(self, field)}.")
        if self.sound_steps < 1:
            raise ValueError(f"guard.sound_steps: expected 1 or more, got {self.sound_steps}.")
        for field in (name for band in _BANDS for name in (band.low, band.high) if name):
            if not 0 <= getattr(self, field) < math.inf:
                raise ValueError(f"{self.config_field(field)}: expected 0 (off) or more, got {getattr(self, field)}.")

    def config_field(self, field: str) -> str:
        """The config field that sets the bound `field`: `bounds.FIELD` of the stage, or `guard.FIELD`."""
        return f"{'bounds' if field in self.stage_fields else 'guard'}.{field}"


def find_cause(spec: GuardSpec, record: Mapping[str, Any]) -> str:
    """Why a step with these metrics is rejected, with what to do; empty if it is accepted."""
    for name, setting in _FINITE.items():
        if name in record and not math.isfinite(record[name]):
            return f"{name} is {record[name]}: lower {setting}, or {TRY_FLOAT32}"
    for band in _BANDS:
        if band.metric not in record:
            continue
        value = record[band.metric]
        for field, is_beyond, word in ((band.low, operator.lt, "under"), (band.high, operator.gt, "over")):
            bound = getattr(spec, field) if field else 0
            if bound and is_beyond(value, bound):
                return (
                    f"{band.description} is {value:.4g}, {word} {spec.config_field(field)} = {bound:g}: {band.advice}."
                )
    return ""


class SoundnessCount(NamedTuple):
    """The responses of a step, how many are correct, and how many of these by sound reasoning."""

    stage: str
    responses: int
    correct: int
    sound: int


def soundness_counts(records: Iterable[Mapping[str, Any]]) -> list[SoundnessCount]:
    """The counts of the records that have them, in order. The task may not verify reasoning, and step 0 has none."""
    counts = []
    for record in records:
        if "share/sound" in record:
            responses = round(record["tokens/rollout"] / record["length/mean"])
            correct, sound = (round(record[name] * responses) for name in ("share/correct", "share/sound"))
            counts.append(SoundnessCount(record["stage"], responses, correct, sound))
    return counts


def soundness_warnings(spec: GuardSpec, counts: Sequence[SoundnessCount]) -> list[str]:
    """A warning if accuracy rises in a stage while the sound share of correct responses falls: learning to guess.

    counts: by step, up to the present one. After every `sound_steps` steps of a stage, these are compared with the
    blocks of as many steps before. The sound share must be lower by `sound_warn`, with disjoint 95 % intervals
    (clustered by step, as the responses of a step depend on its problems), so that noise does not warn.
    """
    size = spec.sound_steps
    stage = [count for count in counts if count.stage == counts[-1].stage]
    if not spec.sound_warn or len(stage) < 2 * size or len(stage) % size:
        return []
    *earlier, last = (_Block.of(stage[start : start + size]) for start in range(0, len(stage), size))
    best = max(earlier, key=lambda block: (block.accuracy < last.accuracy, block.sound.low))
    fall = best.sound.value - last.sound.value
    if not (best.accuracy < last.accuracy and fall >= spec.sound_warn and best.sound.low > last.sound.high):
        return []
    first = 1 + size * earlier.index(best)
    return [
        f"in {stage[-1].stage}, accuracy rose from {best.accuracy:.0%} (steps {first} to {first + size - 1}) to "
        f"{last.accuracy:.0%} (last {size} steps), but the share of correct responses with sound reasoning fell from "
        f"{best.sound.value:.0%} to {last.sound.value:.0%}: the model learns to guess. Read correct responses that are "
        "not sound in the report; lower learning_rate, mix in easier problems, or raise sampling.max_new_tokens if "
        "many responses are truncated."
    ]


class _Block(NamedTuple):
    """Accuracy over some steps, and the sound share of the correct responses."""

    accuracy: float
    sound: Estimate

    @classmethod
    def of(cls, counts: Sequence[SoundnessCount]) -> "_Block":
        _, responses, correct, sound = zip(*counts, strict=True)
        return cls(sum(correct) / sum(responses), clustered_proportion(sound, correct))


def store_rejected_step(
    folder: Path, step: int, cause: str, record: Mapping[str, Any], batch: Batch | None, groups: Sequence[GroupRecord]
) -> None:
    """Write a rejected step: cause.json with its metrics, its responses, and the batch of its update.

    Replaces the folder. step_N.jsonl.gz has the format of rollouts/; step_N.npz holds the arrays of `Batch`. Neither
    is written if the step has no batch.
    """
    shutil.rmtree(folder, ignore_errors=True)
    write_text(folder / "cause.json", json.dumps({"cause": cause} | json.loads(to_line(record)), indent=1) + "\n")
    if batch is None:
        return
    path = write_rollouts(folder, step, groups)
    path = path.with_name(path.name.replace(".jsonl.gz", ".npz"))
    with open_atomic(path) as stream:
        np.savez_compressed(stream, **{name: value for name, value in batch._asdict().items() if value is not None})


def drop_trips_after(folder: Path, trips: int) -> None:
    """Delete the folders of all trips after the first `trips`. A resumed run takes those steps again."""
    for path in folder.glob("trip_*"):
        if int(path.name.removeprefix("trip_")) > trips:
            shutil.rmtree(path)

"""The guard: bounds on a step's metrics, and what is stored of a step that leaves them.

A trip is one rejection of a step. Trips are counted from 1; folder guard/trip_N has the step of trip N.
"""

import dataclasses
import json
import math
import operator
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrl.algorithms.batch import Batch
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
    stage_fields: tuple[str, ...] = ()

    def __post_init__(self):
        if self.remedy not in REMEDIES:
            raise ValueError(f"guard.remedy: expected one of {', '.join(REMEDIES)}, got {self.remedy!r}.")
        if not 0 < self.factor < 1 or self.retries < 0:
            raise ValueError(
                f"guard: expected a factor between 0 and 1 and retries of 0 or more, got {self.factor} "
                f"and {self.retries}."
            )
        if not 0 <= self.suspects_warn <= 1:
            raise ValueError(f"guard.suspects_warn: expected a share of 0 (off) to 1, got {self.suspects_warn}.")
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

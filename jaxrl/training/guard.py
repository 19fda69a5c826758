"""The guard: numbers of a step that must not be gone on from, said in words, with all that is needed to see why."""

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
from jaxrl.reporting.files import to_line, write_text, written_whole
from jaxrl.reporting.rollouts import GroupRecord, write_rollouts

TRY_FLOAT32 = "run with dtype=float32 and attention=plain to see whether precision is the cause."
REMEDIES = ("skip", "rate", "temperature", "stop")


class _Band(NamedTuple):
    """A number of the metrics table, its bounds as fields of GuardSpec, and what to do where it leaves them."""

    metric: str
    low: str
    high: str
    words: str
    advice: str


_BANDS = (
    _Band(
        "loss/kl", "", "kl_max", "the KL to the reference (nats a token)", "lower learning_rate or raise kl_coefficient"
    ),
    _Band(
        "entropy",
        "entropy_min",
        "entropy_max",
        "the entropy (nats a token)",
        "lower learning_rate; raise sampling.temperature where it is too low, lower it where it is too high",
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
        "the share of badly formed responses",
        "lower sampling.temperature or learning_rate",
    ),
    _Band(
        "length/mean",
        "length_min",
        "length_max",
        "the mean length (tokens)",
        "lower learning_rate; lower sampling.temperature where it is too high",
    ),
)
_FINITE = dict.fromkeys(
    ("loss/total", "gradient_norm", "update_norm", "loss/kl", "entropy", "reward/mean"), "learning_rate"
) | dict.fromkeys(("critic/loss", "critic/gradient_norm"), "algorithm.critic_learning_rate")  # and what to lower


@dataclasses.dataclass(frozen=True)
class GuardSpec:
    """Bounds (0: off), and the remedy where a step leaves them; configs/base.py says what each means.

    own: those bounds that a stage sets for itself.
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
    own: tuple[str, ...] = ()

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
                raise ValueError(f"{self.place(field)}: expected 0 (off) or more, got {getattr(self, field)}.")

    def place(self, field: str) -> str:
        """Where the config has a bound."""
        return f"{'bounds' if field in self.own else 'guard'}.{field}"


def find_cause(spec: GuardSpec, record: Mapping[str, Any]) -> str:
    """Why a step with this record must not be gone on from, as a sentence with what to do; empty where it may."""
    for name, rate in _FINITE.items():
        if name in record and not math.isfinite(record[name]):
            return f"{name} is {record[name]}: lower {rate}, or {TRY_FLOAT32}"
    for band in _BANDS:
        if band.metric not in record:
            continue
        value = record[band.metric]
        for field, beyond, word in ((band.low, operator.lt, "under"), (band.high, operator.gt, "over")):
            bound = getattr(spec, field) if field else 0
            if bound and beyond(value, bound):
                return f"{band.words} is {value:.4g}, {word} {spec.place(field)} = {bound:g}: {band.advice}."
    return ""


def dump(
    folder: Path, step: int, cause: str, record: Mapping[str, Any], batch: Batch | None, groups: Sequence[GroupRecord]
) -> None:
    """Write what a tripped step was: cause.json with its numbers, its responses, and the batch of its update.

    What another trip left in the folder goes. step_N.jsonl.gz reads as a file of rollouts/ does; step_N.npz holds the
    arrays of `Batch` that there were. Neither is written where the step did not come as far as a batch.
    """
    shutil.rmtree(folder, ignore_errors=True)
    write_text(folder / "cause.json", json.dumps({"cause": cause} | json.loads(to_line(record)), indent=1) + "\n")
    if batch is None:
        return
    path = write_rollouts(folder, step, groups)
    path = path.with_name(path.name.replace(".jsonl.gz", ".npz"))
    with written_whole(path) as stream:
        np.savez_compressed(stream, **{name: value for name, value in batch._asdict().items() if value is not None})


def drop_trips_after(folder: Path, trips: int) -> None:
    """Take away the kept steps of all trips but the first `trips`: a run that goes on does those steps again."""
    for path in folder.glob("trip_*"):
        if int(path.name.removeprefix("trip_")) > trips:
            shutil.rmtree(path)

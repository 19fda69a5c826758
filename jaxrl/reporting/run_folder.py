"""Reads a run folder: config, manifest, metrics, evaluations and the steps with stored rollouts."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxrl.evaluation.results import EvaluationResult, from_json, to_json
from jaxrl.reporting.files import delete_partial, write_text
from jaxrl.reporting.rollouts import rollout_steps
from jaxrl.reporting.writers import read_metrics


class RunFolder(NamedTuple):
    """The contents of a run folder. Parts that the run did not write are empty."""

    workdir: Path
    config: dict[str, object]
    manifest: dict[str, object]
    records: list[dict[str, object]]
    evaluations: list[EvaluationResult]  # "before" first, "after" last, the others by step
    rollout_steps: list[int]
    trips: list[dict[str, object]]  # metrics of the steps that the guard rejected, with the `cause` as text

    @property
    def rollouts(self) -> Path:
        return self.workdir / "rollouts"


class Band(NamedTuple):
    """A stage with its first and last step."""

    stage: str
    first: int
    last: int


def read_run(workdir: str | os.PathLike[str]) -> RunFolder:
    """Reads a run folder.

    Raises FileNotFoundError without a metrics file, ValueError (with the file's name) for a file that can't be parsed.
    """
    workdir = Path(workdir)
    if not (workdir / "metrics.jsonl").is_file():
        raise FileNotFoundError(
            f"expected a run folder at {workdir}, found no metrics.jsonl; pass the folder given to "
            "`python -m jaxrl.train --workdir=...`"
        )
    return RunFolder(
        workdir=workdir,
        config=_read_json(workdir / "config.json"),
        manifest=_read_json(workdir / "manifest.json"),
        records=read_metrics(workdir / "metrics.jsonl"),
        evaluations=read_evaluations(workdir),
        rollout_steps=rollout_steps(workdir / "rollouts"),
        trips=[_read_json(path) for path in sorted((workdir / "guard").glob("trip_*/cause.json"))],
    )


def write_evaluation(workdir: str | os.PathLike[str], result: EvaluationResult) -> Path:
    """Writes `evaluations/<name>.json`, atomically."""
    return write_text(Path(workdir) / "evaluations" / f"{result.name}.json", to_json(result))


def drop_evaluations_after(workdir: str | os.PathLike[str], restored_step: int) -> None:
    """Removes evaluations of steps that a resumed run repeats, and partially written files."""
    for result in read_evaluations(workdir):
        if result.step > restored_step:
            (Path(workdir) / "evaluations" / f"{result.name}.json").unlink()
    delete_partial(Path(workdir) / "evaluations")


def read_evaluations(workdir: str | os.PathLike[str]) -> list[EvaluationResult]:
    """All evaluations of a run: "before" first, "after" last, the others by step."""
    results = []
    for path in sorted((Path(workdir) / "evaluations").glob("*.json")):
        try:
            results.append(from_json(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    order = {"before": -1, "after": 1}
    return sorted(results, key=lambda result: (order.get(result.name, 0), result.step, result.name))


def stage_bands(records: Sequence[dict[str, object]]) -> list[Band]:
    """The stages in training order. Step 0, the state before training, belongs to no stage."""
    bands: list[Band] = []
    for record in records:
        stage, step = str(record.get("stage", "")), int(record["step"])
        if step == 0 or not stage:
            continue
        if bands and bands[-1].stage == stage:
            bands[-1] = bands[-1]._replace(last=step)
        else:
            bands.append(Band(stage, step, step))
    return bands


def _read_json(path: Path) -> dict[str, object]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"expected JSON in {path}, got {error}; restore or delete the file") from None

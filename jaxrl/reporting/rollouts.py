"""Stored rollouts: `rollouts/step_000123.jsonl.gz`, one line per prompt with all its responses."""

import gzip
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxrl.reporting.files import delete_partial, open_atomic

STEP_FILE = re.compile(r"step_(\d{6,})\.jsonl\.gz")


class ResponseRecord(NamedTuple):
    """A response with its verdict. `reward` is the unnormalised total of the rule."""

    response: str
    verdict: str
    reasons: tuple[str, ...]
    suspects: tuple[str, ...]
    format_reward: float
    answer_reward: float
    reward: float
    advantage: float | None  # None if not finite, or if the group was dropped
    length: int  # tokens, including the end-of-sequence token
    finished: bool  # False: truncated at the length limit
    style: str = ""  # response style, if the task classifies its responses
    sound: bool | None = None  # whether every step of the reasoning is right; None: the task could not verify it
    error: str = ""  # the kind of the first wrong step
    span: tuple[int, int] = (0, 0)  # characters of the response that hold the first wrong step

    @property
    def is_sound(self) -> bool:
        """Whether the response is correct, and its reasoning verified."""
        return self.verdict == "correct" and bool(self.sound)


class GroupRecord(NamedTuple):
    """A prompt of a step with the responses sampled for it."""

    step: int
    stage: str
    prompt_index: int
    problem: str  # id, the same at every step
    kind: str
    prompt: str
    solution: str
    responses: tuple[ResponseRecord, ...]
    question: str = ""  # the bare question, without instructions and template
    names: tuple[str, ...] = ()  # people named in the question


def rollout_path(folder: str | os.PathLike[str], step: int) -> Path:
    """Path of a step's rollouts in the `rollouts` folder of a run."""
    return Path(folder) / f"step_{step:06d}.jsonl.gz"


def write_rollouts(folder: str | os.PathLike[str], step: int, groups: Iterable[GroupRecord]) -> Path:
    """Writes the groups of a step atomically. Equal groups give equal bytes: the archive has no time stamp.

    Raises ValueError for a group of another step.
    """
    path = rollout_path(folder, step)
    with (
        open_atomic(path) as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as archive,
    ):
        for group in groups:
            if group.step != step:
                raise ValueError(
                    f"expected groups of step {step}, got one of step {group.step}; write one file per step"
                )
            archive.write(json.dumps(_to_record(group), ensure_ascii=False, allow_nan=False).encode() + b"\n")
    return path


def read_rollouts(path: str | os.PathLike[str]) -> list[GroupRecord]:
    """Reads the groups of one file. Raises ValueError with the file and line that can't be read."""
    groups = []
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                groups.append(_from_line(line, path, number))
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path} is a truncated or corrupt gzip file ({error}); delete it and resume the run"
        ) from error
    return groups


def rollout_steps(folder: str | os.PathLike[str]) -> list[int]:
    """The steps with stored rollouts in ascending order; empty if the folder does not exist."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    matches = (STEP_FILE.fullmatch(entry.name) for entry in folder.iterdir())
    return sorted(int(match.group(1)) for match in matches if match)


def drop_rollouts_after(folder: str | os.PathLike[str], restored_step: int) -> None:
    """Removes rollouts of steps that a resumed run repeats, and partially written files."""
    for step in rollout_steps(folder):
        if step > restored_step:
            rollout_path(folder, step).unlink()
    delete_partial(folder)


def _to_record(group: GroupRecord) -> dict[str, object]:
    return group._asdict() | {"responses": [response._asdict() for response in group.responses]}


def _from_line(line: str, path: str | os.PathLike[str], number: int) -> GroupRecord:
    try:
        record = json.loads(line)
        responses = tuple(_from_response(entry) for entry in record.pop("responses"))
        return GroupRecord(**record | {"responses": responses, "names": tuple(record.get("names", ()))})
    except (json.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path}, line {number}: expected a group of rollouts, got {error}; delete the file"
        ) from error


def _from_response(entry: dict[str, object]) -> ResponseRecord:
    lists: dict[str, Sequence] = {name: entry.pop(name) for name in ("reasons", "suspects")}
    lists["span"] = entry.pop("span", (0, 0))  # files of earlier versions have no verified reasoning
    return ResponseRecord(**entry, **{name: tuple(values) for name, values in lists.items()})

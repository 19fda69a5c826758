"""What the model wrote at a step: `rollouts/step_000123.jsonl.gz`, one line a prompt with its whole group."""

import gzip
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxrl.reporting.files import drop_partial, written_whole

STEP_FILE = re.compile(r"step_(\d{6,})\.jsonl\.gz")


class ResponseRecord(NamedTuple):
    """One response with its verdict. `reward` is the plain total of the rule, never normalised."""

    response: str
    verdict: str
    reasons: tuple[str, ...]
    suspects: tuple[str, ...]
    format_reward: float
    answer_reward: float
    reward: float
    advantage: float | None  # None where it was not finite, or the group was not learned from
    length: int  # tokens, the end token included
    finished: bool  # False: cut off by the length limit
    style: str = ""  # way of answering, where the task can tell it


class GroupRecord(NamedTuple):
    """One prompt of one step with the responses sampled for it."""

    step: int
    stage: str
    prompt_index: int
    problem: str  # its id: the same problem at another step has the same id
    kind: str
    prompt: str
    solution: str
    responses: tuple[ResponseRecord, ...]
    question: str = ""  # the prompt without what surrounds it
    names: tuple[str, ...] = ()  # of people in the question


def rollout_path(folder: str | os.PathLike[str], step: int) -> Path:
    """Where the rollouts of a step stand inside the run's `rollouts` folder."""
    return Path(folder) / f"step_{step:06d}.jsonl.gz"


def write_rollouts(folder: str | os.PathLike[str], step: int, groups: Iterable[GroupRecord]) -> Path:
    """Writes a step's groups, atomically; the same groups give the same bytes (no time stamp in the
    archive)."""
    path = rollout_path(folder, step)
    with (
        written_whole(path) as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as packed,
    ):
        for group in groups:
            if group.step != step:
                raise ValueError(f"a group of step {group.step} does not belong into the file of step {step}")
            packed.write(json.dumps(_to_record(group), ensure_ascii=False, allow_nan=False).encode() + b"\n")
    return path


def read_rollouts(path: str | os.PathLike[str]) -> list[GroupRecord]:
    """The groups of one file. ValueError names the file and line that can't be read."""
    groups = []
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                groups.append(_from_line(line, path, number))
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is not a whole gzip file ({error}); delete it and resume the run") from error
    return groups


def rollout_steps(folder: str | os.PathLike[str]) -> list[int]:
    """The steps whose rollouts are stored, ascending; none for a folder that does not exist."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    matches = (STEP_FILE.fullmatch(entry.name) for entry in folder.iterdir())
    return sorted(int(match.group(1)) for match in matches if match)


def drop_rollouts_after(folder: str | os.PathLike[str], restored_step: int) -> None:
    """Removes the files of steps that a resumed run will do again, and half-written ones."""
    for step in rollout_steps(folder):
        if step > restored_step:
            rollout_path(folder, step).unlink()
    drop_partial(folder)


def _to_record(group: GroupRecord) -> dict[str, object]:
    return group._asdict() | {"responses": [response._asdict() for response in group.responses]}


def _from_line(line: str, path: str | os.PathLike[str], number: int) -> GroupRecord:
    try:
        record = json.loads(line)
        responses = tuple(_from_response(entry) for entry in record.pop("responses"))
        return GroupRecord(**record | {"responses": responses, "names": tuple(record.get("names", ()))})
    except (json.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}, line {number}: not a group of rollouts ({error})") from error


def _from_response(entry: dict[str, object]) -> ResponseRecord:
    lists: dict[str, Sequence[str]] = {name: entry.pop(name) for name in ("reasons", "suspects")}
    return ResponseRecord(**entry, **{name: tuple(values) for name, values in lists.items()})

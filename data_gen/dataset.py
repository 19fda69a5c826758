"""Reading and writing puzzle files (JSON lines)."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_gen.canonical import canonical
from data_gen.puzzle import Puzzle, from_record


def write_jsonl(path: str | os.PathLike, records: Iterable[dict]) -> int:
    """Write records as JSON lines (UTF-8), atomically. Returns their number."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(", ", ": ")).encode
    count = 0
    try:
        with unfinished.open("w", encoding="utf-8", newline="\n") as file:
            for record in records:
                file.write(encode(record) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return count


def read_jsonl(path: str | os.PathLike) -> Iterator[dict]:
    """The objects of a JSON lines file; empty lines are skipped. Raises ValueError with the number of a bad line."""
    with Path(path).open(encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number}: expected one JSON object, got {line.strip()[:60]!r} ({error})."
                ) from error
            if not isinstance(record, dict):
                raise ValueError(f"{path}, line {number}: expected one JSON object, got {line.strip()[:60]!r}.")
            yield record


def read_puzzles(path: str | os.PathLike) -> Iterator[Puzzle]:
    """The puzzles of a file. Raises ValueError with the number of a bad puzzle."""
    for number, record in enumerate(read_jsonl(path), start=1):
        try:
            puzzle = from_record(record)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}, puzzle {number}: {error}") from None
        yield puzzle


def read_forms(paths: Iterable[str | os.PathLike]) -> set[str]:
    """The canonical forms of all puzzles in the files, to exclude them from new files."""
    return {canonical(puzzle.statements) for path in paths for puzzle in read_puzzles(path)}

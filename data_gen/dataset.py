"""Puzzles to and from files with one JSON object a line."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_gen.canonical import canonical
from data_gen.puzzle import Puzzle, from_record


def write_jsonl(path: str | os.PathLike, records: Iterable[dict]) -> int:
    """Writes the records, UTF-8, one a line, and returns how many. The file appears whole or not at all."""
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
    """The objects of a file, one a line; empty lines are skipped. Raises ValueError that names a bad line by
    number."""
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
    """The puzzles of a file. Raises ValueError that names a bad line by number."""
    with_numbers = enumerate(read_jsonl(path), start=1)
    for number, record in with_numbers:
        try:
            puzzle = from_record(record)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}, puzzle {number}: {error}") from None
        yield puzzle


def read_forms(paths: Iterable[str | os.PathLike]) -> set[str]:
    """The canonical forms of all puzzles in the files, to keep new puzzles away from them."""
    return {canonical(puzzle.statements) for path in paths for puzzle in read_puzzles(path)}

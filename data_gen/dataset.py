"""Reading and writing puzzle files: JSON lines and parquet, in our own format or the published one."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from data_gen.canonical import canonical
from data_gen.published_format import from_published, is_published, to_published
from data_gen.puzzle import Puzzle, from_record, to_record
from data_gen.solve import solutions

FORMATS = ("puzzles", "published")


def write_jsonl(path: str | os.PathLike, records: Iterable[dict]) -> int:
    """Write records as JSON lines (UTF-8), atomically. Returns their number."""
    encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(", ", ": ")).encode
    count = 0

    def write(unfinished: Path) -> None:
        nonlocal count
        with unfinished.open("w", encoding="utf-8", newline="\n") as file:
            for record in records:
                file.write(encode(record) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())

    _write_atomically(Path(path), write)
    return count


def write_puzzles(path: str | os.PathLike, puzzles: Iterable[Puzzle], form: str = "puzzles") -> int:
    """Write puzzles in one of FORMATS, as JSON lines, or as parquet if the name ends so. Returns their number.

    Raises ValueError as `check_writable`.
    """
    path = Path(path)
    check_writable(path, form)
    if path.suffix != ".parquet":
        return write_jsonl(path, map(to_record if form == "puzzles" else to_published, puzzles))
    from pyarrow import parquet

    table = parquet_table([to_published(puzzle) for puzzle in puzzles])
    _write_atomically(path, lambda unfinished: parquet.write_table(table, unfinished))
    return table.num_rows


def check_writable(path: str | os.PathLike, form: str) -> None:
    """Raises ValueError for an unknown format, and for a parquet file in our own format or without pyarrow."""
    if form not in FORMATS:
        raise ValueError(f"expected a format out of {', '.join(FORMATS)}, got {form!r}.")
    if Path(path).suffix != ".parquet":
        return
    if form != "published":
        raise ValueError(
            f'{path}: expected the format "published" for a parquet file, got {form!r}, whose nested statements have '
            "no column type; write JSON lines, or set the format."
        )
    _import_pyarrow(path)


def parquet_table(records: list[dict]) -> Any:
    """Rows of the published format as a pyarrow table, with the column types of the published data set."""
    import pyarrow

    words = [f"{article}{word}" for word in ("knight", "knave") for article in ("", "a_")] + ["Knight", "Knave"]
    columns = {
        "quiz": pyarrow.string(),
        "names": pyarrow.list_(pyarrow.string()),
        "knight_knave": pyarrow.struct([(word, pyarrow.string()) for word in words]),
        "solution": pyarrow.list_(pyarrow.bool_()),
        "solution_text": pyarrow.string(),
        "statements": pyarrow.string(),
        "index": pyarrow.int64(),
    }
    return pyarrow.Table.from_pylist(records, schema=pyarrow.schema(list(columns.items())))


def read_jsonl(path: str | os.PathLike) -> Iterator[dict]:
    """The objects of a JSON lines file; empty lines are skipped. Raises ValueError as `read_lines`."""
    return (record for _, record in read_lines(path))


def read_lines(path: str | os.PathLike) -> Iterator[tuple[int, dict]]:
    """(line number, object) of a JSON lines file in UTF-8; empty lines and a byte order mark are skipped.

    Raises ValueError with the number of a line that is not UTF-8 or not a JSON object.
    """
    with Path(path).open("rb") as file:
        for number, encoded in enumerate(file, start=1):
            line = _decode(encoded, path, number).strip()
            if not line:
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"{path}, line {number}: expected one JSON object, got {line[:60]!r} ({error})."
                ) from error
            if not isinstance(record, dict):
                raise ValueError(f"{path}, line {number}: expected one JSON object, got {line[:60]!r}.")
            yield number, record


def read_puzzles(path: str | os.PathLike) -> Iterator[Puzzle]:
    """The puzzles of a file in our own format or the published one, as JSON lines or parquet. Each is solved.

    Raises ValueError with the number of the line (or row) of a puzzle that is malformed, does not have exactly one
    solution, or has another one than the file says; FileNotFoundError if there is no file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"expected a file of puzzles at {path}, found none.")
    is_parquet = Path(path).suffix == ".parquet"
    for number, record in _read_parquet(path) if is_parquet else read_lines(path):
        try:
            puzzle = from_published(record) if is_published(record) else from_record(record)
            check_puzzle(puzzle)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"{path}, {'row' if is_parquet else 'line'} {number}: {error}") from None
        yield puzzle


def read_forms(paths: Iterable[str | os.PathLike]) -> set[str]:
    """The canonical forms of all puzzles in the files, to exclude them from new files."""
    return {canonical(puzzle.statements) for path in paths for puzzle in read_puzzles(path)}


def check_puzzle(puzzle: Puzzle) -> None:
    """Raises ValueError unless names and role words differ, the quiz has all names and the solution is the only one."""
    if len(set(puzzle.names)) < len(puzzle.names):
        raise ValueError(f"expected different names, got {', '.join(puzzle.names)}.")
    if puzzle.roles[0] == puzzle.roles[1]:
        raise ValueError(f"expected two different role words, got {puzzle.roles[0]!r} twice.")
    absent = [name for name in puzzle.names if name not in puzzle.quiz]
    if absent:
        raise ValueError(f"expected the name of every person in the quiz, found no {absent[0]!r}.")
    found = solutions(puzzle.statements)
    if len(found) != 1:
        raise ValueError(f"expected statements with exactly one solution, got {len(found) or 'none'}.")
    solved = tuple(bool(found[0] >> person & 1) for person in range(len(puzzle.names)))
    if solved != puzzle.solution:
        expected = puzzle._replace(solution=solved).solution_text
        raise ValueError(f"expected the solution that the statements have, {expected!r}, got {puzzle.solution_text!r}.")


def _decode(line: bytes, path: str | os.PathLike, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}, line {number}: expected UTF-8, got the byte 0x{line[error.start]:02X} at position "
            f"{error.start + 1} of the line; save the file as UTF-8."
        ) from None


def _read_parquet(path: str | os.PathLike) -> Iterator[tuple[int, dict]]:
    """(row number, from 1, and row) of a parquet file."""
    pyarrow = _import_pyarrow(path)
    from pyarrow import parquet

    with Path(path).open("rb") as file:
        try:
            rows = parquet.ParquetFile(file, pre_buffer=False).read(use_threads=False).to_pylist()
        except pyarrow.ArrowException as error:
            raise ValueError(f"{path}: expected a parquet file ({error}).") from None
    yield from enumerate(rows, start=1)


def _import_pyarrow(path: str | os.PathLike) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ValueError(f"{path}: parquet needs the package pyarrow; run pip install 'jaxrl[parquet]'.") from error
    return pyarrow


def _write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with the path of a file beside `path`, which then replaces it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        write(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)

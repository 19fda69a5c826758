"""Writing so that a reader never meets half a file."""

import contextlib
import json
import math
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Writes the whole text beside `path`, forces it to disk, then renames it into place."""
    path = Path(path)
    with written_whole(path) as stream:
        stream.write(text.encode())
    return path


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A stream beside `path`; when the block ends it is forced to disk and renamed into place, else taken away.

    Any number of processes may write the same path: the last one stays. What a killed one left `drop_partial` clears.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{platform.node()}-{os.getpid()}.partial")
    try:
        with open(temporary, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def drop_partial(folder: str | os.PathLike[str], names: str = "*") -> None:
    """Removes what killed writers left of files with such `names`; only for a process that alone writes them."""
    for partial in Path(folder).glob(f"{names}.partial"):
        partial.unlink()


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Forces a folder's entries to disk, so that a rename or a new file survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_line(record: Mapping[str, object]) -> str:
    """One line of strict JSON. nan and the infinities, which JSON lacks, become the texts "nan", "inf",
    "-inf"."""
    return json.dumps({name: _plain(value) for name, value in record.items()}, ensure_ascii=False, allow_nan=False)


def from_line(line: str) -> dict[str, object]:
    """The record of `to_line`. ValueError when the line is not one JSON object."""
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, got {line[:60]!r}")
    return {name: NOT_FINITE.get(v, v) if isinstance(v, str) else v for name, v in record.items()}


def _plain(value: object) -> object:
    """Scalars of numpy and JAX as Python numbers; float32 keeps its exact value."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return list(value) if isinstance(value, tuple) else value

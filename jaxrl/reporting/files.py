"""Atomic writes and strict JSON lines."""

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
    """Writes a text file atomically, and forces it to disk."""
    path = Path(path)
    with open_atomic(path) as stream:
        stream.write(text.encode())
    return path


@contextlib.contextmanager
def open_atomic(path: Path) -> Iterator[IO[bytes]]:
    """A stream to a temporary file. At the end of the block the file is forced to disk and renamed to `path`.

    If the block raises, the file is deleted. Several processes may write the same path; the last one wins. The files
    of killed processes are deleted by `delete_partial`.
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
    fsync_folder(path.parent)


def delete_partial(folder: str | os.PathLike[str], names: str = "*") -> None:
    """Deletes the temporary files of killed writers. Only for a process that alone writes files of these `names`."""
    for partial in Path(folder).glob(f"{names}.partial"):
        partial.unlink()


def fsync_folder(folder: str | os.PathLike[str]) -> None:
    """Forces the entries of a folder to disk, so that a new or renamed file survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_line(record: Mapping[str, object]) -> str:
    """One line of strict JSON. NaN and infinities, which JSON lacks, become the strings "nan", "inf" and "-inf"."""
    return json.dumps({name: _plain(value) for name, value in record.items()}, ensure_ascii=False, allow_nan=False)


def from_line(line: str) -> dict[str, object]:
    """Inverse of `to_line`. Raises ValueError if the line is not a JSON object."""
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, got {line[:60]!r}")
    return {name: NOT_FINITE.get(v, v) if isinstance(v, str) else v for name, v in record.items()}


def _plain(value: object) -> object:
    """Scalars of numpy and JAX as Python numbers. A float32 keeps its exact value."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return list(value) if isinstance(value, tuple) else value

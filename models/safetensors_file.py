"""Safetensors files, one tensor at a time: headers are checked first, data is memory-mapped.

The `safetensors` package needs every tensor of a shard in host memory to write it, and chooses the order
itself; streaming keeps one tensor in memory, and the order and metadata of a source file. Format: 8 bytes
header length (little endian), a JSON header padded with spaces, then the data without gaps.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
CODES = {dtype: code for code, dtype in DTYPES.items()}
ALIGNMENT = 8
STRIP = 32  # rows of a matrix that are transposed together
LARGEST_HEADER = 100_000_000


class Entry(NamedTuple):
    """Where a tensor lies: its file, dtype code ("BF16", ...), shape, and the byte range within the file."""

    path: Path
    code: str
    shape: tuple[int, ...]
    start: int
    end: int


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(f"{path} has a corrupt safetensors header ({what}); download or write it again.")


def _once(path: Path):
    """A JSON object hook that refuses a name given twice, which a plain dict would hide."""

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(items)
        if len(found) != len(items):
            names = [name for name, _ in items]
            doubled = sorted({name for name in names if names.count(name) > 1})
            raise _damaged(path, f"named twice: {', '.join(doubled)}")
        return found

    return pairs


def read_header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """Entries by tensor name in the file's own order, and the file's metadata.

    Raises FileNotFoundError for a missing file, ValueError for a truncated file, a corrupt header, or ranges
    that leave gaps, overlap or do not fit their shapes.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; the checkpoint is incomplete, download it again.")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8:
            raise ValueError(f"{path} is truncated: {size} bytes are no safetensors file; download it again.")
        if length > LARGEST_HEADER:
            raise _damaged(path, f"it claims {length} bytes")
        if length + 8 > size:
            raise ValueError(f"{path} is truncated: its header ends at byte {length + 8} of {size}; download it again.")
        try:
            header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_once(path))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise _damaged(path, "it is not JSON") from error
    if not isinstance(header, dict):
        raise _damaged(path, "it is not a JSON object")
    metadata = header.pop("__metadata__", {})
    entries = {name: _entry(path, name, fields, length + 8) for name, fields in header.items()}
    reached = length + 8
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != reached:
            raise _damaged(path, f"{name} starts at byte {entry.start}, expected {reached}")
        reached = entry.end
    if reached > size:
        raise ValueError(
            f"{path} is truncated: its header speaks of {reached} bytes, the file has {size}; download it again."
        )
    if reached < size:
        raise _damaged(path, f"it speaks of {reached} bytes, the file has {size}")
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)))
    return ordered, metadata


def _entry(path: Path, name: str, fields: object, base: int) -> Entry:
    try:
        code, shape = fields["dtype"], tuple(int(n) for n in fields["shape"])
        start, end = (base + int(place) for place in fields["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"the entry of {name} is unreadable") from error
    if code in DTYPES and end - start != math.prod(shape) * DTYPES[code].itemsize:
        raise _damaged(path, f"{name} {code} {list(shape)} does not fill its {end - start} bytes")
    return Entry(path, code, shape, start, end)


def view(entry: Entry) -> np.ndarray:
    """The tensor as a read-only memory map: only the rows that are used are read."""
    if entry.start == entry.end:
        return np.empty(entry.shape, DTYPES[entry.code])
    raw = np.memmap(entry.path, np.uint8, "r", offset=entry.start, shape=(entry.end - entry.start,))
    return raw.view(DTYPES[entry.code]).reshape(entry.shape)


def transpose(matrix: np.ndarray) -> np.ndarray:
    """A copy of `matrix.T` in memory order, in strips that stay in the cache: 3 to 7 times faster than all at once."""
    found = np.empty(matrix.shape[::-1], matrix.dtype)
    for start in range(0, len(matrix), STRIP):
        found[:, start : start + STRIP] = matrix[start : start + STRIP].T
    return found


def write_file(
    path: Path,
    shapes: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    blocks: Iterable[np.ndarray],
    metadata: Mapping[str, str],
) -> None:
    """Write one file and flush it to disk. blocks: the tensors in the order of `shapes`, each whole or in parts."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name, (dtype, shape) in shapes.items():
        end = place + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for block in blocks:
            file.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())

"""Reads and writes `metrics.jsonl`, which has one line per step."""

import os
from collections.abc import Mapping
from pathlib import Path

from jaxrl.reporting.files import from_line, fsync_folder, to_line, write_text
from jaxrl.reporting.metrics import check_record

Record = Mapping[str, object]


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, object]]:
    """The records of a metrics file, in order; none if there is no file.

    An incomplete last line, of a run that was killed, is ignored. Raises ValueError for any other unreadable line.
    """
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines[:-1], 1):  # the rest is empty, or an incomplete line
        try:
            records.append(from_line(line.decode()))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not a metrics record ({error}); remove the line") from None
    return records


class JsonlWriter:
    """Appends one line per step; each is on disk before `write` returns.

    restored_step: the step of the checkpoint that the run resumes from. Lines of later steps are removed, as the run
    repeats them. None starts a new file. Raises ValueError if the file lacks a step up to `restored_step`.
    """

    def __init__(self, path: str | os.PathLike[str], restored_step: int | None = None):
        self.path = Path(path)
        kept = [] if restored_step is None else [r for r in read_metrics(self.path) if r["step"] <= restored_step]
        self.last_step = int(kept[-1]["step"]) if kept else -1
        present = {record["step"] for record in kept}
        missing = [step for step in range(1, (restored_step or 0) + 1) if step not in present]
        if missing:
            raise ValueError(
                f"{self.path}: expected all steps up to {restored_step}, step {missing[0]} is missing; "
                "restore the file, or start in an empty run folder"
            )
        write_text(self.path, "".join(to_line(record) + "\n" for record in kept))
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)

    def write(self, record: Record) -> None:
        """Appends a record of Python, numpy or JAX scalars. Raises ValueError for unknown names, earlier steps."""
        line = to_line(record)
        plain = from_line(line)
        check_record(plain)
        if plain["step"] <= self.last_step:
            raise ValueError(
                f"expected a step after {self.last_step}, the last line of {self.path}, got {plain['step']}"
            )
        data, size = line.encode() + b"\n", os.fstat(self._descriptor).st_size
        try:
            while data:  # one iteration, except on a full disk or after a signal
                data = data[os.write(self._descriptor, data) :]
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, size)  # leave no incomplete line
            raise
        self.last_step = plain["step"]

    def close(self) -> None:
        """Closes the file. May be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            fsync_folder(self.path.parent)
            self._descriptor = -1

"""`metrics.jsonl`: a line a step, on disk before the next one begins, read and written."""

import os
from collections.abc import Mapping
from pathlib import Path

from jaxrl.reporting.files import from_line, sync_folder, to_line, write_text
from jaxrl.reporting.metrics import check_record

Record = Mapping[str, object]


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, object]]:
    """The records of a metrics file in order; none if there is no file. A torn last line (the run was killed
    while writing it) is left out; a line that can't be read anywhere else is a ValueError with its number."""
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last newline is empty or torn
        try:
            records.append(from_line(line.decode()))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not a metrics record ({error}); remove the line") from None
    return records


class JsonlWriter:
    """Appends one line a step, each forced to disk before `write` returns.

    `restored_step` is the step of the checkpoint that the run goes on from: lines of later steps are removed
    (the run does them again), so that no step stands twice. None starts the file anew. ValueError when a step
    up to `restored_step` is missing from the file, or when `write` is given a step that is not a later one.
    """

    def __init__(self, path: str | os.PathLike[str], restored_step: int | None = None):
        self.path = Path(path)
        kept = [] if restored_step is None else [r for r in read_metrics(self.path) if r["step"] <= restored_step]
        self.last_step = int(kept[-1]["step"]) if kept else -1
        present = {record["step"] for record in kept}
        missing = [step for step in range(1, (restored_step or 0) + 1) if step not in present]
        if missing:
            raise ValueError(
                f"{self.path} should hold all steps up to {restored_step}, but step {missing[0]} is missing; "
                "put the file back, or start again in an empty run folder"
            )
        write_text(self.path, "".join(to_line(record) + "\n" for record in kept))
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)

    def write(self, record: Record) -> None:
        """Appends the record; numpy and JAX scalars are welcome, names must be in the table of metrics."""
        line = to_line(record)
        plain = from_line(line)
        check_record(plain)
        if plain["step"] <= self.last_step:
            raise ValueError(f"step {plain['step']} was written already; the last line is step {self.last_step}")
        data, size = line.encode() + b"\n", os.fstat(self._descriptor).st_size
        try:
            while data:  # one call in practice; a full disk or a signal may split it
                data = data[os.write(self._descriptor, data) :]
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, size)  # the line is whole or not there
            raise
        self.last_step = plain["step"]

    def close(self) -> None:
        """Closes the file; safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            sync_folder(self.path.parent)
            self._descriptor = -1

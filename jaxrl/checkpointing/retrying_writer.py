"""Writes of a run that survive a full disk: they stay in memory and are retried at the end of later steps."""

import collections
from collections.abc import Callable

from jaxrl.runtime.multihost import broadcast_from_primary


class RetryingWriter:
    """Queue of the writes of the primary process, and a limit on failures in a row.

    Background writes, such as checkpoints, report their own failures by `fail`. The run survives `patience` failures
    (checkpoint.patience) until everything is on disk again, which `succeed` reports. warn: called with one sentence
    for each failure.
    """

    def __init__(self, patience: int, warn: Callable[[str], None]):
        self.patience, self.warn = patience, warn
        self.failures = 0
        self.is_empty = True
        """Whether everything is written, in every process as of the last `flush`."""
        self._queue: collections.deque[tuple[str, Callable[[], None]]] = collections.deque()

    def add(self, name: str, write: Callable[[], None]) -> None:
        """Queue a write. name: what it writes, for messages. A write that fails must leave nothing behind."""
        self._queue.append((name, write))

    def clear(self) -> None:
        """Forget the queue."""
        self._queue.clear()

    def flush(self, retry: str, *, final: bool = False) -> None:
        """Execute the queue in order until a write fails. Every process must call it: it is a collective.

        retry: when the next attempt is made, for the warning. Raises as `fail`.
        """
        failed = self._execute()
        self.is_empty = broadcast_from_primary(failed is None)
        if not self.is_empty:
            name, error = failed or ("output", OSError("process 0 could not write it; see its message"))
            self.fail(name, error, retry, final=final)

    def write_now(self, name: str, write: Callable[[], None]) -> None:
        """Execute a write that is not retried. Raises OSError with a sentence that names it."""
        try:
            write()
        except OSError as error:
            raise _final_error(name, error) from error

    def succeed(self) -> None:
        """Call it when the background writes are on disk. If the queue is empty too, failures are counted from 0."""
        if self.is_empty:
            self.failures = 0

    def fail(self, name: str, error: OSError, retry: str, *, final: bool = False) -> None:
        """Warn of a failure. Raises OSError if it is one too many, or if there is no further attempt (`final`)."""
        self.failures += 1
        if final or self.failures > self.patience:
            raise _final_error(name, error) from error
        self.warn(
            f"warning: {name} cannot be written: {error.strerror or error}. The run continues from memory; next "
            f"attempt {retry} (failure {self.failures} of {self.patience} allowed by checkpoint.patience)."
        )

    def _execute(self) -> tuple[str, OSError] | None:
        """The name and the error of the first write that fails."""
        while self._queue:
            name, write = self._queue[0]
            try:
                write()
            except OSError as error:
                return name, error
            self._queue.popleft()
        return None


def _final_error(name: str, error: OSError) -> OSError:
    return OSError(
        error.errno,
        f"{name} cannot be written: {error.strerror or error}. The last checkpoint is complete: make room on the disk, "
        "then run the same command again to resume.",
    )

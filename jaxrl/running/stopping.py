"""Ends of a run that are neither success nor a wrong config: signals, and a run that can't go on."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from jaxrl.learning.processes import any_process

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Ended(Exception):
    """The run is over before its last step, in a sentence; `status` is the exit status of the command."""

    status = 1


class Stopped(Ended):
    """A signal asked for the end; the same command goes on from there."""

    status = os.EX_TEMPFAIL


class Signals:
    """SIGTERM and SIGINT as `Stopped`, raised where the run can be left; a second signal ends the process at once.

    Use as a context manager. Inside `held` nothing is raised until its end, so that what has begun there is whole.
    Outside the main thread, which alone gets signals, it does nothing. Of several processes (`alone` False) all stop
    together, at the beginning or the end of a `held`, where they ask each other.
    """

    def __init__(self, *, alone: bool = True):
        self.asked: signal.Signals | None = None
        self._held = not alone
        self._alone = alone
        self._before = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._take) for number in _SIGNALS}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """What must not be left half done."""
        self._check()
        self._held = True
        try:
            yield
        finally:
            self._held = not self._alone
        self._check()

    def _take(self, number: int, frame: object) -> None:
        self.asked = signal.Signals(number)
        for other in _SIGNALS:
            signal.signal(other, signal.SIG_DFL)
        if not self._held:
            self._check()

    def _check(self) -> None:
        if any_process(self.asked is not None):
            name = self.asked.name if self.asked else "a signal to another process"
            raise Stopped(f"stopped by {name}; start the same command again to go on.")

"""Ends of a run that are neither success nor a wrong config: signals, and a run that can't go on."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from jaxrl.learning.processes import any_process

ECHO = 1.0
"""Seconds after a signal in which another one is the same request, sent twice: Slurm may signal a process and also the
parent that passes it on."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Ended(Exception):
    """The run is over before its last step, in a sentence; `status` is the exit status of the command.

    1 is Python's for any error, 2 for a refusal.
    """

    status = 3


class Stopped(Ended):
    """A signal asked for the end; the same command goes on from there."""

    status = os.EX_TEMPFAIL


class Interrupts:
    """SIGTERM, SIGINT and SIGHUP as KeyboardInterrupt with the signal's name, raised at once; a second signal, other
    than an echo of the first, ends the process. SIGHUP (a closed terminal) is left alone where nohup has set it aside.

    Use as a context manager, where there is nothing to save or what is left undone is cleared. Outside the main thread,
    which alone gets signals, it does nothing.
    """

    def __init__(self):
        self.asked: signal.Signals | None = None
        self._before = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._take) for number in _SIGNALS
                            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: object) -> None:
        if self.asked:
            return
        self.asked = signal.Signals(number)
        time.sleep(ECHO)  # what comes meanwhile ends above
        for other in self._before:
            signal.signal(other, signal.SIG_DFL)
        self._leave()

    def _leave(self) -> None:
        raise KeyboardInterrupt(self.asked.name)


class Signals(Interrupts):
    """The same signals as `Stopped`, raised where the run can be left.

    Inside `held` nothing is raised until its end, so that what has begun there is whole. Of several processes (`alone`
    False) all stop together, at the beginning or the end of a `held`, where they ask each other.
    """

    def __init__(self, *, alone: bool = True):
        super().__init__()
        self._held = not alone
        self._alone = alone

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

    def _leave(self) -> None:
        if not self._held:
            self._check()

    def _check(self) -> None:
        asked = self.asked is not None
        if asked if self._alone else any_process(asked):
            name = self.asked.name if self.asked else "a signal to another process"
            raise Stopped(f"stopped by {name}; start the same command again to go on.")

"""Stop requests by SIGTERM, SIGINT or SIGHUP: the first saves the state and ends the run, the second kills it.

No handler raises. Python drops an exception that a handler raises during a destructor or a callback of the garbage
collector, and the request would be lost. A handler sets a flag, or ends the process.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jaxrl.runtime.multihost import any_process, exit_process, is_multiprocess

DUPLICATE_SECONDS = 1.0
"""Further signals within this time are the same request: Slurm, systemd and others may signal a process and also its
parent, which passes the signal on."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Ended(Exception):
    """The run ended before its last step. `status` is the exit status of the command: 1 and 2 are errors."""

    status = 3


class Stopped(Ended):
    """A signal stopped the run; the same command resumes it."""

    status = os.EX_TEMPFAIL


@contextmanager
def exit_on_signal(name: str) -> Iterator[None]:
    """While the block runs, a signal ends the process at once with status `Stopped.status`.

    For start-up and export, when there is nothing to save. name: of the command, for the message on stderr.
    """

    def exit_now(number: int, frame: object) -> None:
        exit_process(f"{name}: {_message(signal.Signals(number).name)}", Stopped.status)

    with _handlers(exit_now):
        yield


class StopRequest:
    """The first signal, if one was received. `poll` and `check` raise `Stopped` where the caller can stop."""

    def __init__(self, on_signal: Callable[[], None]):
        self.received: signal.Signals | None = None
        self._on_signal = on_signal

    def poll(self) -> None:
        """Raise Stopped if a signal was received. Does nothing in a run of several processes; they use `check`."""
        if not is_multiprocess():
            self.check()

    def check(self) -> None:
        """Raise Stopped if any process has received a signal. Every process must call it: it is a collective."""
        if any_process(self.received is not None):
            raise Stopped(_message(self.received.name if self.received else "a signal to another process"))

    def _receive(self, number: int, frame: object) -> None:
        if self.received is not None:  # a duplicate that arrives during the sleep below
            return
        self.received = signal.Signals(number)
        self._on_signal()
        time.sleep(DUPLICATE_SECONDS)  # in the handler: while an XLA program runs, duplicates would be handled too late
        for other in _SIGNALS:
            if signal.getsignal(other) == self._receive:
                signal.signal(other, signal.SIG_DFL)  # the second request kills the process


@contextmanager
def stop_on_signal(on_signal: Callable[[], None] = lambda: None) -> Iterator[StopRequest]:
    """While the block runs, a signal sets the flag of the `StopRequest`. Raises Stopped at the end if it is set.

    on_signal: called at once by the handler of the first signal.
    """
    stop = StopRequest(on_signal)
    with _handlers(stop._receive):
        yield stop
    stop.check()


def _message(received: str) -> str:
    return f"stopped by {received}; run the same command again to resume."


@contextmanager
def _handlers(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Install the handler for all stop signals, except SIGHUP under nohup. Only the main thread may set handlers."""
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)

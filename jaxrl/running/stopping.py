"""Ends of a run that are neither success nor a wrong config: signals, and a run that can't go on."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from jaxrl.learning.processes import any_process

ECHO = 2.0
"""Seconds after a signal in which another one is the same request, sent twice: Slurm, systemd and others may signal a
process and also the parent that passes it on."""
_AGAIN = 0.05  # seconds until an end that was swallowed is asked for again
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Ended(Exception):
    """The run is over before its last step, in a sentence; `status` is the exit status of the command.

    1 is Python's for any error, 2 for a refusal.
    """

    status = 3


class Stopped(Ended):
    """A signal asked for the end; the same command goes on from there."""

    status = os.EX_TEMPFAIL


class _Taking:
    """The signals while they are taken: handlers, the first signal and when it came, and who acts on it.

    One for the process, as its handlers are: of `Interrupts` inside each other the innermost acts, and what it was
    asked the outer ones know too.
    """

    def __init__(self):
        self.inside: list[Interrupts] = []
        self.asked: signal.Signals | None = None
        self.since = 0.0
        self._handlers: dict[signal.Signals, Any] = {}
        self._hook: Any = None
        self._reminder: threading.Timer | None = None
        self._reminding = False

    def begin(self) -> None:
        self.asked, self._reminding = None, False
        self._handlers = {number: signal.signal(number, self._take) for number in _SIGNALS
                          if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN}
        self._hook, sys.unraisablehook = sys.unraisablehook, self._swallowed

    def end(self) -> None:
        if self.asked:
            time.sleep(max(0.0, self.since + ECHO - time.monotonic()))  # an echo must not meet other handlers
        if self._reminder:
            self._reminder.cancel()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        sys.unraisablehook, self.asked = self._hook, None

    def _take(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if self.asked is None:
            self.asked, self.since = signal.Signals(number), now
        elif self._reminding:
            self._reminding = False
        elif now - self.since > ECHO:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        else:
            return
        self.inside[-1].leave()

    def _swallowed(self, unraisable: Any) -> None:
        """Ask again where Python has dropped what a handler raised: it had come in the middle of a destructor or of a
        callback of the garbage collector, and JAX has one."""
        if self.asked is None or not isinstance(unraisable.exc_value, KeyboardInterrupt | Stopped):
            self._hook(unraisable)
            return
        self._reminding = True
        self._reminder = threading.Timer(_AGAIN, signal.pthread_kill, (threading.main_thread().ident, self.asked))
        self._reminder.daemon = True
        self._reminder.start()


_taking = _Taking()


class Interrupts:
    """SIGTERM, SIGINT and SIGHUP as KeyboardInterrupt with the signal's name, raised at once; a second signal, other
    than an echo of the first, ends the process. SIGHUP (a closed terminal) is left alone where nohup has set it aside.

    Use as a context manager, where there is nothing to save or what is left undone is cleared. Inside another one it
    begins by leaving where a signal has come that nobody acted on. Outside the main thread, which alone gets signals,
    it does nothing.
    """

    _entered = False

    @property
    def asked(self) -> signal.Signals | None:
        """The first signal that came, if one did."""
        return _taking.asked if self._entered else None

    def __enter__(self) -> Self:
        self._entered = threading.current_thread() is threading.main_thread()
        if self._entered:
            if not _taking.inside:
                _taking.begin()
            _taking.inside.append(self)
            try:
                if _taking.asked:
                    self.leave()
            except BaseException:
                self.__exit__()
                raise
        return self

    def __exit__(self, *error) -> None:
        if self._entered:
            _taking.inside.remove(self)
            if not _taking.inside:
                _taking.end()
            self._entered = False

    def leave(self) -> None:
        """What a signal does here."""
        raise KeyboardInterrupt(_taking.asked.name)


class Signals(Interrupts):
    """The same signals as `Stopped`, raised where the run can be left.

    Inside `held` nothing is raised until its end, so that what has begun there is whole. Of several processes (`alone`
    False) all stop together, at the beginning or the end of a `held`, where they ask each other.
    """

    def __init__(self, *, alone: bool = True):
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

    def leave(self) -> None:
        """Raise where nothing is held."""
        if not self._held:
            self._check()

    def _check(self) -> None:
        asked = self.asked is not None
        if asked if self._alone else any_process(asked):
            name = self.asked.name if self.asked else "a signal to another process"
            raise Stopped(f"stopped by {name}; start the same command again to go on.")

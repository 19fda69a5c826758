"""Ends of a run that are neither success nor a wrong config: signals, and a run that can't go on."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from jaxrl.runtime.multihost import any_process

ECHO = 1.0
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
    """The signals while they are taken: handlers, the first signal that came, and who acts on it.

    One for the process, as its handlers are: of `Interrupts` inside each other the innermost acts, and what it was
    asked the outer ones know too.
    """

    def __init__(self):
        self.inside: list[Interrupts] = []
        self.asked: signal.Signals | None = None
        self.dropped = False  # whether an end was raised that nobody saw
        self._echoes = False  # whether what comes may be an echo of the first
        self._handlers: dict[signal.Signals, Any] = {}
        self._hook: Any = None

    def begin(self) -> None:
        self.asked, self.dropped, self._echoes = None, False, True
        self._hook, sys.unraisablehook = sys.unraisablehook, self._swallowed
        for number in _SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._take)

    def end(self) -> None:
        if signal.SIGALRM in self._handlers:
            signal.setitimer(signal.ITIMER_REAL, 0)
        while self._handlers:
            signal.signal(*self._handlers.popitem())
        sys.unraisablehook, self.asked = self._hook, None

    def _take(self, number: int, frame: object) -> None:
        if self.asked is None:
            self.asked = signal.Signals(number)
            self.inside[-1].pass_on()
            time.sleep(ECHO)  # what comes meanwhile, or came while no handler could run, ends below
            self._echoes = False
            self.inside[-1].leave()
        elif not self._echoes:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _swallowed(self, unraisable: Any) -> None:
        """Ask again, a little later, where Python has dropped what a handler raised: it had come in the middle of a
        destructor or of a callback of the garbage collector, and JAX has one."""
        if self.asked is None or not isinstance(unraisable.exc_value, KeyboardInterrupt | Stopped):
            self._hook(unraisable)
            return
        self.dropped = True
        before = signal.signal(signal.SIGALRM, self._ask_again)
        self._handlers.setdefault(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN)

    def _ask_again(self, number: int, frame: object) -> None:
        if self.dropped:
            self.inside[-1].leave()


_taking = _Taking()


class Interrupts:
    """SIGTERM, SIGINT and SIGHUP as KeyboardInterrupt with the signal's name, raised at once; a second signal, other
    than an echo of the first, ends the process. SIGHUP (a closed terminal) is left alone where nohup has set it aside.

    Use as a context manager, where there is nothing to save or what is left undone is cleared. Inside another one it
    begins by leaving where a signal has come that nobody acted on, and its end is the other's turn. Outside the main
    thread, which alone gets signals, it does nothing.
    """

    _entered = False

    @property
    def asked(self) -> signal.Signals | None:
        """The first signal that came, if one did."""
        return _taking.asked if self._entered else None

    def __enter__(self) -> Self:
        self._entered = threading.current_thread() is threading.main_thread()
        if self._entered:
            try:
                _taking.inside.append(self)
                if len(_taking.inside) == 1:
                    _taking.begin()
                if _taking.asked:
                    self.leave()
            except BaseException:
                self._exit()
                raise
        return self

    def __exit__(self, *error) -> None:
        if self._entered:
            self._exit()
            if _taking.asked and error[0] is None and _taking.inside:
                _taking.inside[-1].leave()

    def _exit(self) -> None:
        try:
            if len(_taking.inside) == 1:
                _taking.end()
        finally:
            _taking.inside.remove(self)
            self._entered = False

    def pass_on(self) -> None:
        """What a signal does at once, before it is known whether others are echoes of it."""

    def leave(self) -> None:
        """What a signal does then."""
        _taking.dropped = False
        raise KeyboardInterrupt(_taking.asked.name)


class Signals(Interrupts):
    """The same signals as `Stopped`, raised where the run can be left.

    Inside `held` nothing is raised until its end, so that what has begun there is whole. Of several processes (`alone`
    False) all stop together, at the beginning or the end of a `held`, where they ask each other. tell: whom else the
    signal concerns, called at once.
    """

    def __init__(self, *, alone: bool = True, tell: Callable[[], None] | None = None):
        self._held = not alone
        self._alone = alone
        self._tell = tell

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

    def pass_on(self) -> None:
        """Tell whom it concerns."""
        if self._tell:
            self._tell()

    def leave(self) -> None:
        """Raise where nothing is held."""
        if not self._held:
            self._check()

    def _check(self) -> None:
        asked = self.asked is not None
        if asked if self._alone else any_process(asked):
            _taking.dropped = False
            name = self.asked.name if self.asked else "a signal to another process"
            raise Stopped(f"stopped by {name}; start the same command again to go on.")

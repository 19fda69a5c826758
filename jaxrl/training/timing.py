"""How long the phases of a step take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jaxrl.runtime.compilation import compile_monitor


class PhaseTimer:
    """Times the phases of one step and shows the current one.

    Call it with a phase's name to get a context manager; a phase that is entered several times adds up.
    """

    def __init__(self, show: Callable[[str], None]):
        self.show = show
        self.started = time.perf_counter()
        self.compiled = compile_monitor().totals()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self.show(phase)
        started = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - started

    @property
    def compiling(self) -> float:
        """Seconds since the step began in which it compiled, or waited for a program that another thread compiled."""
        return compile_monitor().totals().waited - self.compiled.waited

    @property
    def total(self) -> float:
        """Seconds since the step began."""
        return time.perf_counter() - self.started

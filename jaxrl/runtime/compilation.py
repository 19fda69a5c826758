"""How many programs JAX compiles and how long that takes, by the events of `jax.monitoring`."""

import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import jax.monitoring

_STAGE = "/jax/core/compile/"  # prefix of tracing, lowering and compiling
_PROGRAM = _STAGE + "backend_compile_duration"
_CACHE_HIT = "/jax/compilation_cache/cache_hits"


class CompileTotals(NamedTuple):
    """Compilation since the start of the process.

    programs: compiled, or loaded from the compilation cache. loaded: those from the cache. seconds: of tracing,
    lowering, compiling and loading in all threads; waited: those of the main thread, with its waits for other threads.
    """

    programs: int = 0
    loaded: int = 0
    seconds: float = 0.0
    waited: float = 0.0


class CompileMonitor:
    """Adds up the events of JAX's compiler. Use the one of the process, `compile_monitor()`.

    JAX reports the beginning and the end of each stage, and stages contain others: tracing a function traces those that
    it calls. Only the outermost stage of a thread counts. show: called with True when the main thread begins to compile
    or to wait for a compilation, and with False afterwards.
    """

    def __init__(self) -> None:
        self.show: Callable[[bool], None] = lambda compiling: None
        self._lock, self._thread = threading.Lock(), threading.local()
        self._totals = CompileTotals()

    def totals(self) -> CompileTotals:
        """The totals so far."""
        with self._lock:
            return self._totals

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The calling thread waits for a program that another thread compiles."""
        self._begin()
        try:
            yield
        finally:
            self._end(is_work=False)

    def on_begin(self, event: str, *_: float, **__: str | int) -> None:
        """A listener for scalars: JAX reports the time when a stage begins."""
        if event.startswith(_STAGE):
            self._begin()

    def on_end(self, event: str, *_: float, **__: str | int) -> None:
        """A listener for durations."""
        if event.startswith(_STAGE):
            self._end(is_work=True)
        if event == _PROGRAM:
            self._add(programs=1)

    def on_event(self, event: str, **_: str | int) -> None:
        """A listener for events without a value."""
        if event == _CACHE_HIT:
            self._add(loaded=1)

    def _begin(self) -> None:
        depth = getattr(self._thread, "depth", 0)
        if depth == 0:
            self._thread.began = time.perf_counter()
            if _in_main_thread():
                self.show(True)
        self._thread.depth = depth + 1

    def _end(self, *, is_work: bool) -> None:
        depth = getattr(self._thread, "depth", 0)
        self._thread.depth = max(depth - 1, 0)
        if depth == 1:
            seconds = time.perf_counter() - self._thread.began
            self._add(seconds=seconds if is_work else 0.0, waited=seconds if _in_main_thread() else 0.0)
            if _in_main_thread():
                self.show(False)

    def _add(self, **changes: float) -> None:
        with self._lock:
            old = self._totals
            self._totals = old._replace(**{name: getattr(old, name) + value for name, value in changes.items()})


@functools.cache
def compile_monitor() -> CompileMonitor:
    """The monitor of this process. Counts from its first call on."""
    monitor = CompileMonitor()
    jax.monitoring.register_scalar_listener(monitor.on_begin)
    jax.monitoring.register_event_duration_secs_listener(monitor.on_end)
    jax.monitoring.register_event_listener(monitor.on_event)
    return monitor


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()

"""Compilation during a run: in a second thread where the config asks for it, and visible."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import jax

from jaxrl.reporting.terminal import Terminal
from jaxrl.runtime.compilation import compile_monitor
from jaxrl.training.components import Components


@contextmanager
def show_compilation(terminal: Terminal) -> Iterator[None]:
    """The panel says "compiling" while the run waits for the compiler; the last line says how long that was in all."""
    monitor = compile_monitor()
    before, monitor.show = monitor.totals(), partial(setattr, terminal, "compiling")
    try:
        yield
    finally:
        monitor.show = lambda compiling: None
        programs, loaded, seconds, waited = (now - then for now, then in zip(monitor.totals(), before, strict=True))
        terminal.log(
            f"{programs} programs, {loaded} of them from the compilation cache: {seconds:.0f} s of compiling, and "
            f"{waited:.0f} s in which the run waited."
        )


@contextmanager
def compile_ahead(components: Components, *, sampled: bool) -> Iterator[None]:
    """Compile the update's programs for all shapes of the layout in a second thread. The end does not wait for them.

    sampled: whether a sampler writes the responses. Without effect in a run of several processes, whose programs must
    be compiled in the same order everywhere.
    """
    if jax.process_count() > 1:
        yield
        return
    executor = ThreadPoolExecutor(1, thread_name_prefix="compile")
    components.update.compile_ahead(executor, components.abstract_state(), sampled=sampled)
    try:
        yield
    finally:
        executor.shutdown(cancel_futures=True)  # waits for the program that is being compiled, if any

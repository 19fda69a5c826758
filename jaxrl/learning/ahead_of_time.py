"""Jitted functions whose programs can be compiled in another thread before they are called."""

from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future
from typing import Any

import jax

from jaxrl.runtime.compilation import compile_monitor


class AheadOfTime:
    """A jitted function with programs for several shapes.

    `compile_ahead` traces and compiles a program in a thread of an executor; XLA compiles without Python's lock. JAX
    keeps the program, so a later call with equal shapes and shardings runs it as if the call itself had compiled it.

    key: of the arguments, one per program.
    """

    def __init__(self, jitted: Callable[..., Any], key: Callable[..., Hashable]):
        self.jitted, self.key = jitted, key
        self._pending: dict[Hashable, Future] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Waits if this program is being compiled, and compiles it here if its turn has not come yet."""
        if self._pending:
            future = self._pending.pop(self.key(*arguments), None)
            if future is not None and not future.cancel():
                with compile_monitor().waiting():
                    future.result()
        return self.jitted(*arguments)

    def lower(self, *arguments: Any) -> jax.stages.Lowered:
        """As `jax.jit(...).lower`."""
        return self.jitted.lower(*arguments)  # pyright: ignore[reportFunctionMemberAccess]

    def compile_ahead(self, executor: Executor, *arguments: Any) -> None:
        """Compile the program for these arguments, arrays or shapes with shardings, in a thread of the executor."""
        self._pending[self.key(*arguments)] = executor.submit(lambda: self.lower(*arguments).compile())

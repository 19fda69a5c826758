"""Gradient accumulation over the micro-batches of an optimizer step."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jaxrl.algorithms.batch import Batch, Totals
from jaxrl.algorithms.losses import combine_info
from jaxrl.learning.ahead_of_time import AheadOfTime
from jaxrl.learning.mesh import replicated, row_sharding, row_shards
from jaxrl.learning.state import Learned

Objective = Callable[[Any, Any, Batch, Totals, Any], tuple[Float[Array, ""], dict[str, Array]]]
"""(params, frozen base or None, micro-batch, totals of the step, scalars) -> loss and metrics, as shares of the step.

Metrics are scalars, except those named `*_max`, which have one value per row block: [row_shards(mesh)]. See
`maxima_by_row_block`."""


class Accumulator(NamedTuple):
    """Sums of gradients (float32) and metrics over micro-batches."""

    grads: Any
    info: dict[str, Array]


class GradientAccumulation:
    """Compiled programs that train one parameter tree: `zeros`, `accumulate` and `finish`.

    `accumulate` is compiled once per shape of micro-batch, the others once. shardings: of the parameters and the
    optimizer state; gradients are sharded as their parameters.
    """

    def __init__(
        self, objective: Objective, optimizer: optax.GradientTransformationExtraArgs, shardings: Learned, mesh: Mesh
    ):
        self.objective = objective
        self.traces: Counter[tuple[int, int]] = Counter()
        """Number of traces of `accumulate` by micro-batch shape (rows, length): at most one each."""
        self._names: dict[tuple[bool, ...], tuple[str, ...]] = {}
        constrain = jax.lax.with_sharding_constraint

        def constrained(grads, info):
            # A maximum per row block stays on the devices of its rows until `finish`. Reducing it here would cost every
            # micro-batch a second all-reduce.
            by_name = {name: row_sharding(mesh) if name.endswith("_max") else replicated(mesh) for name in info}
            return Accumulator(jax.tree.map(constrain, grads, shardings.params), jax.tree.map(constrain, info, by_name))

        def zeros(params, names):
            grads = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), params)
            shapes = {name: (row_shards(mesh),) if name.endswith("_max") else () for name in names}
            return constrained(grads, {name: jnp.zeros(shape, jnp.float32) for name, shape in shapes.items()})

        def accumulate(total, params, base, micro, totals, scalars):
            self.traces[micro.tokens.shape] += 1
            grads, info = jax.grad(objective, has_aux=True)(params, base, micro, totals, scalars)
            grads = jax.tree.map(lambda x, y: x + y.astype(x.dtype), total.grads, grads)
            return constrained(grads, combine_info(total.info, info))

        def finish(learned, total, learning_rate):
            return _apply(optimizer, learned, total, learning_rate)

        self.zeros = jax.jit(zeros, static_argnums=1)
        self.accumulate = AheadOfTime(
            jax.jit(accumulate, donate_argnums=0), lambda total, params, base, micro, *_: micro.tokens.shape
        )
        self.finish = jax.jit(finish, donate_argnums=0, out_shardings=(shardings, replicated(mesh)))

    def step(
        self, learned: Learned, base: Any, micros: Sequence[Batch], totals: Totals, scalars: Any, learning_rate: Any
    ) -> tuple[Learned, dict[str, Array]]:
        """One optimizer step. `learned` is donated. base: the frozen weights beside adapters, or None.

        The metrics are those of the objective and grad_norm, update_norm and skipped. A step whose gradient is not
        finite changes nothing and has skipped = 1.
        """
        total = self.zeros(learned.params, self.names(learned.params, base, micros[0], totals, scalars))
        for micro in micros:
            total = self.accumulate(total, learned.params, base, micro, totals, scalars)
        return self.finish(learned, total, learning_rate)

    def compile_ahead(self, executor: Executor, params: Any, base: Any, micros: Sequence[Batch], scalars: Any) -> None:
        """Compile `accumulate` in the executor's threads for micro-batches of these shapes, given with shardings."""
        totals = Totals(np.float32(1), np.float32(1))
        names = self.names(params, base, micros[0], totals, scalars)
        shapes = jax.eval_shape(lambda params: self.zeros(params, names), params)
        shardings = self.zeros.lower(params, names).compile().output_shardings
        total = jax.tree.map(lambda x, to: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=to), shapes, shardings)
        for micro in micros:
            self.accumulate.compile_ahead(executor, total, params, base, micro, totals, scalars)

    def names(self, params: Any, base: Any, micro: Batch, totals: Totals, scalars: Any) -> tuple[str, ...]:
        """Names of the metrics of the objective, for micro-batches with the fields of this one."""
        fields = tuple(values is not None for values in micro)
        if fields not in self._names:
            self._names[fields] = tuple(sorted(jax.eval_shape(self.objective, params, base, micro, totals, scalars)[1]))
        return self._names[fields]


def maxima_by_row_block(
    loss: Callable[..., tuple[Float[Array, ""], dict[str, Float[Array, ""]]]], blocks: int, *rows: Any
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """`loss(*rows)`, with each metric named `*_max` computed per block of rows: [blocks].

    rows: trees of arrays with the same first axis, which is split into `blocks` equal blocks. With one block per shard
    of the rows, the maxima need no communication between devices.
    """
    value, info = loss(*rows)
    split = jax.tree.map(lambda x: x.reshape(blocks, x.shape[0] // blocks, *x.shape[1:]), rows)
    by_block = jax.vmap(loss)(*split)[1]  # the compiler removes everything but the maxima
    return value, {name: by_block[name] if name.endswith("_max") else x for name, x in info.items()}


def _apply(optimizer, learned, total, learning_rate):
    """One optimizer step with the accumulated gradient, and its metrics. No change if the gradient is not finite."""
    norm = optax.tree.norm(total.grads)
    finite = jnp.isfinite(norm)
    grads = jax.tree.map(lambda x, p: x.astype(p.dtype), total.grads, learned.params)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax relies on both
        updates, opt_state = optimizer.update(grads, learned.opt_state, learned.params, learning_rate=learning_rate)
    params = optax.apply_updates(learned.params, updates)
    params, opt_state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), (params, opt_state), tuple(learned))
    info = {name: x.max() if name.endswith("_max") else x for name, x in total.info.items()} | {
        "grad_norm": norm,
        "update_norm": jnp.where(finite, optax.tree.norm(updates), 0.0),
        "skipped": 1.0 - finite.astype(jnp.float32),
    }
    return Learned(params, opt_state), info

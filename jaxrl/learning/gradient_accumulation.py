"""Gradients of one objective summed over the micro-batches of a step, then one step of its optimizer."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jaxrl.algorithms.batch import Batch, Totals
from jaxrl.algorithms.losses import combine_info
from jaxrl.learning.mesh import replicated, row_sharding, row_shards
from jaxrl.learning.state import Learned

Objective = Callable[[Any, Any, Batch, Totals, Any], tuple[Float[Array, ""], dict[str, Array]]]
"""(params, frozen base or None, micro-batch, totals of the step, scalars) -> loss and measures, shares of the step."""


class Accumulator(NamedTuple):
    """Sums over the micro-batches of one optimizer step."""

    grads: Any
    info: dict[str, Array]


class GradientAccumulation:
    """One trained thing: `accumulate` is compiled once a shape of micro-batch, `zeros` and `finish` once.

    places: shardings of its parameters and moments; gradients lie as the parameters do.
    """

    def __init__(
        self, objective: Objective, optimizer: optax.GradientTransformationExtraArgs, places: Learned, mesh: Mesh
    ):
        self.objective = objective
        self.traces: Counter[tuple[int, int]] = Counter()
        """How often the micro-batch program was traced, by shape (rows, length): never more than once each."""
        self._names: dict[tuple[bool, ...], tuple[str, ...]] = {}
        whole, blocks = replicated(mesh), row_shards(mesh)

        def placed(grads, info):
            # Largest values stay where their rows are until the end: a micro-batch then has one all-reduce less, which
            # matters where several virtual CPU devices may lock up in each (LOG.md).
            kept = {name: row_sharding(mesh) if name.endswith("_max") else whole for name in info}
            pin = jax.lax.with_sharding_constraint
            return Accumulator(jax.tree.map(pin, grads, places.params), jax.tree.map(pin, info, kept))

        def zeros(params, names):
            grads = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), params)
            shapes = {name: (blocks,) if name.endswith("_max") else () for name in names}
            return placed(grads, {name: jnp.zeros(shape, jnp.float32) for name, shape in shapes.items()})

        def accumulate(total, params, base, micro, totals, scalars):
            self.traces[micro.tokens.shape] += 1
            grads, info = jax.grad(objective, has_aux=True)(params, base, micro, totals, scalars)
            grads = jax.tree.map(lambda x, y: x + y.astype(x.dtype), total.grads, grads)
            return placed(grads, combine_info(total.info, info))

        def finish(learned, total, learning_rate):
            return _apply(optimizer, learned, total, learning_rate)

        self.zeros = jax.jit(zeros, static_argnums=1)
        self.accumulate = jax.jit(accumulate, donate_argnums=0)
        self.finish = jax.jit(finish, donate_argnums=0, out_shardings=(places, whole))

    def step(
        self, learned: Learned, base: Any, micros: Sequence[Batch], totals: Totals, scalars: Any, learning_rate: Any
    ) -> tuple[Learned, dict[str, Array]]:
        """One optimizer step. `learned` is given up: its buffers are reused. base: what stays frozen, or None.

        The measures are those of the objective, and grad_norm, update_norm and skipped: a step whose gradient is not
        finite changes nothing.
        """
        total = self.zeros(learned.params, self.names(learned.params, base, micros[0], totals, scalars))
        for micro in micros:
            total = self.accumulate(total, learned.params, base, micro, totals, scalars)
        return self.finish(learned, total, learning_rate)

    def names(self, params: Any, base: Any, micro: Batch, totals: Totals, scalars: Any) -> tuple[str, ...]:
        """Names that the objective reports for micro-batches with these fields."""
        fields = tuple(values is not None for values in micro)
        if fields not in self._names:
            self._names[fields] = tuple(sorted(jax.eval_shape(self.objective, params, base, micro, totals, scalars)[1]))
        return self._names[fields]


def _apply(optimizer, learned, total, learning_rate):
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

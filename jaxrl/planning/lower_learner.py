"""The learner's programs from shapes alone: to read them or to plan their memory, nothing is allocated or run."""

from typing import Any

import jax
import numpy as np

from jaxrl.algorithms.batch import Batch, Totals
from jaxrl.learning.gradient_accumulation import Accumulator, GradientAccumulation
from jaxrl.learning.mesh import replicated, row_sharding, row_shards
from jaxrl.learning.state import Learned, TrainState
from jaxrl.learning.update import Scalars, Update


def lower(update: Update, state: TrainState, rows: int, length: int) -> dict[str, jax.stages.Lowered]:
    """`reference`, `accumulate` and `finish` of an update, whose mesh may be of devices that one can only compile for.

    With a critic its `critic_accumulate` and `critic_finish` too.
    state: shapes with shardings. rows, length: those of a micro-batch, over all devices.
    """
    place, whole = row_sharding(update.mesh), replicated(update.mesh)

    def shape(size: tuple[int, ...], kind: Any = np.float32, at: Any = place) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(size, kind, sharding=at)

    scalar, grid, loss = shape((), at=whole), shape((rows, length)), update.loss
    micro = Batch(
        tokens=shape((rows, length), np.int32),
        lengths=shape((rows,), np.int32),
        loss_mask=grid,
        advantages=grid,
        old_logp=grid if update.spec.steps > 1 else None,
        ref_logp=None if loss.kl_placement == "none" else grid,
        sample_logp=grid,
        **dict.fromkeys(("values", "returns"), grid if update.critic else None),
    )
    scalars, totals = Scalars(*(scalar,) * len(Scalars._fields)), Totals(scalar, scalar)

    def descend(
        descent: GradientAccumulation, learned: Learned, base: Any
    ) -> tuple[jax.stages.Lowered, jax.stages.Lowered]:
        blocks = shape((row_shards(update.mesh),))
        names = descent.names(learned.params, base, micro, totals, scalars)
        total = Accumulator(
            jax.tree.map(lambda leaf: shape(leaf.shape, at=leaf.sharding), learned.params),
            {name: blocks if name.endswith("_max") else scalar for name in names},
        )
        gradient = descent.accumulate.lower(total, learned.params, base, micro, totals, scalars)
        return gradient, descent.finish.lower(learned, total, scalar)

    reference = update.logp.lower(state.weights(state.params), micro.tokens, micro.lengths, scalar)
    accumulate, finish = descend(update.policy, Learned(state.params, state.opt_state), state.base)
    found = {"reference": reference, "accumulate": accumulate, "finish": finish}
    if update.critic:
        found["critic_accumulate"], found["critic_finish"] = descend(update.critic, state.critic, None)
    return found

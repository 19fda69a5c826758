"""Lowers the programs of the learner from shapes: for inspection and memory planning, without allocating arrays."""

from typing import Any

import jax
import numpy as np

from jaxrl.algorithms.batch import Totals
from jaxrl.learning.gradient_accumulation import Accumulator, GradientAccumulation
from jaxrl.learning.mesh import replicated, row_sharding, row_shards
from jaxrl.learning.state import Learned, TrainState
from jaxrl.learning.update import Scalars, Update


def lower_update(update: Update, state: TrainState, rows: int, length: int) -> dict[str, jax.stages.Lowered]:
    """Lowers `reference`, `accumulate` and `finish` of an update, and the last two of its critic (`critic_...`).

    The mesh may contain compile-only devices. state: shapes with shardings. rows, length: of a micro-batch, over all
    devices.
    """
    by_row, everywhere = row_sharding(update.mesh), replicated(update.mesh)

    def shape(size: tuple[int, ...], dtype: Any = np.float32, sharding: Any = by_row) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(size, dtype, sharding=sharding)

    scalar, micro = shape((), sharding=everywhere), update.abstract_micro_batch(rows, length)
    scalars, totals = Scalars(*(scalar,) * len(Scalars._fields)), Totals(scalar, scalar)

    def lower_accumulation(
        accumulation: GradientAccumulation, learned: Learned, base: Any
    ) -> tuple[jax.stages.Lowered, jax.stages.Lowered]:
        blocks = shape((row_shards(update.mesh),))
        names = accumulation.names(learned.params, base, micro, totals, scalars)
        total = Accumulator(
            jax.tree.map(lambda leaf: shape(leaf.shape, sharding=leaf.sharding), learned.params),
            {name: blocks if name.endswith("_max") else scalar for name in names},
        )
        accumulate = accumulation.accumulate.lower(total, learned.params, base, micro, totals, scalars)
        return accumulate, accumulation.finish.lower(learned, total, scalar)

    reference = update.logp.lower(state.model_params, micro.tokens, micro.lengths, scalar)
    accumulate, finish = lower_accumulation(update.policy, state.policy, state.base)
    programs = {"reference": reference, "accumulate": accumulate, "finish": finish}
    if update.critic:
        programs["critic_accumulate"], programs["critic_finish"] = lower_accumulation(update.critic, state.critic, None)
    return programs

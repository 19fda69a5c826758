"""What one update reads: a batch of rows, and the totals of the whole optimizer step it belongs to."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Batch(NamedTuple):
    """Rows for one update, right-padded; every [B, T] array at t speaks of `tokens[:, t]`.

    What lies beyond `lengths` may be anything, also NaN: no result depends on it.
    `loss_mask` is 1 on the sampled tokens up to and including the first EOS, and may not reach beyond
    `lengths`. `old_logp` None: one update per rollout, the ratio is taken to `stop_gradient(logp)`.
    `ref_logp` None: no reference. `sample_logp` None: the sampler is not compared with the learner.
    `values` and `returns`: what the critic said before the update, and what it is to learn; None without one.
    """

    tokens: Int[Array, "B T"]
    lengths: Int[Array, " B"]
    loss_mask: Float[Array, "B T"]
    advantages: Float[Array, "B T"]
    old_logp: Float[Array, "B T"] | None = None
    ref_logp: Float[Array, "B T"] | None = None
    sample_logp: Float[Array, "B T"] | None = None
    values: Float[Array, "B T"] | None = None
    returns: Float[Array, "B T"] | None = None


class Totals(NamedTuple):
    """Denominators, counted over the whole optimizer step before it is split into micro-batches."""

    tokens: Float[Array, ""]
    rows: Float[Array, ""]


def totals_of(loss_mask: Float[Array, "B T"]) -> Totals:
    """Number of loss tokens, and of rows that have any; both at least 1, so that an empty step gives 0."""
    rows = jnp.sum(jnp.any(loss_mask > 0, axis=1).astype(jnp.float32))
    return Totals(jnp.maximum(jnp.sum(loss_mask), 1.0), jnp.maximum(rows, 1.0))

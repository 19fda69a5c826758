"""The input of an update: a batch of rows, and the denominators of the optimizer step it belongs to."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Batch(NamedTuple):
    """Right-padded rows; every [B, T] array at t refers to `tokens[:, t]`.

    No result depends on the padding, which may hold anything, including NaN.
    loss_mask: 1 on the sampled tokens up to and including the first EOS, never beyond `lengths`.
    old_logp: log-probabilities before the first optimizer step of the rollout; None: the ratio is taken to
      `stop_gradient(logp)`, for one optimizer step per rollout.
    ref_logp: of the reference policy, if any. sample_logp: of the sampler; None: no comparison with the learner.
    values, returns: the critic's predictions before the update and its targets; None without a critic.
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
    """Denominators of an optimizer step, counted before it is split into micro-batches."""

    tokens: Float[Array, ""]
    rows: Float[Array, ""]


def totals_of(loss_mask: Float[Array, "B T"]) -> Totals:
    """Number of loss tokens and of rows with loss tokens. Both are at least 1, so that an empty step gives 0."""
    rows = jnp.sum(jnp.any(loss_mask > 0, axis=1).astype(jnp.float32))
    return Totals(jnp.maximum(jnp.sum(loss_mask), 1.0), jnp.maximum(rows, 1.0))

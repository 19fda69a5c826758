"""The critic's loss: squared error to the returns, clipped around the old values."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrl.algorithms.batch import Batch, Totals, totals_of
from jaxrl.algorithms.losses import LossSpec
from jaxrl.algorithms.masked import hide, masked_sum


def value_loss(
    values: Float[Array, "B T"], batch: Batch, spec: LossSpec, *, totals: Totals | None = None
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2) / 2, mean over the loss tokens of the step; c: value_clip.

    V: `values`. V_old: `batch.values`, predicted before the update. R: `batch.returns`. With `totals` the results are
    shares of a step, as in `losses.policy_loss`. Raises ValueError if V_old or R is missing. Source: the public code of
    PPO (github.com/openai/baselines, ppo2); the factor 1/2 as in verl and TRL.
    """
    if batch.values is None or batch.returns is None:
        raise ValueError("a critic's loss needs batch.values and batch.returns, got None; fill them before the update")
    mask = batch.loss_mask
    totals = totals_of(mask) if totals is None else totals
    values, old, returns = (hide(x, mask) for x in (values, batch.values, batch.returns))
    error, clipped = jnp.square(values - returns), jnp.zeros_like(values, bool)
    if spec.value_clip is not None:
        near = jnp.square(jnp.clip(values, old - spec.value_clip, old + spec.value_clip) - returns)
        error, clipped = jnp.maximum(error, near), near > error
    loss = 0.5 * masked_sum(error, mask) / totals.tokens
    info = {
        "value_loss": loss,
        "value_mean": masked_sum(values, mask) / totals.tokens,
        "value_clip_share": masked_sum(clipped.astype(jnp.float32), mask) / totals.tokens,
    }
    return loss, jax.lax.stop_gradient(info)


def explained_variance(batch: Batch) -> float:
    """1 - var(R - V_old) / var(R) over the loss tokens, on the host. A perfect critic has 1, a constant one 0.

    0 if all returns are about equal (variance below 1e-6).
    """
    mask = np.asarray(batch.loss_mask) > 0
    returns, values = (np.asarray(x, np.float64)[mask] for x in (batch.returns, batch.values))
    variance = returns.var() if returns.size else 0.0
    return float(1 - (returns - values).var() / variance) if variance > 1e-6 else 0.0

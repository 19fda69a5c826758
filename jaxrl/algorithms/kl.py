"""Estimators of KL(policy || reference) from sampled tokens (Schulman, "Approximating KL divergence")."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

LOG_RATIO_LIMIT = 10.0
"""The log-ratio is clamped to +-10: exp(10) is 22,026, beyond that one token would decide the step."""


def log_ratio(logp: Float[Array, "*shape"], ref_logp: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log(reference / policy), clamped to +-10."""
    return jnp.clip(ref_logp - logp, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def k1(logp: Float[Array, "*shape"], ref_logp: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """k1 = log(policy / reference): unbiased, noisy, may be negative.

    Its gradient through `logp` has expectation 0, so it belongs in the reward and is refused in the loss.
    """
    return -log_ratio(logp, ref_logp)


def k2(logp: Float[Array, "*shape"], ref_logp: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """k2 = log(policy / reference)^2 / 2: biased, but its gradient is in expectation that of the true KL."""
    return 0.5 * jnp.square(log_ratio(logp, ref_logp))


def k3(logp: Float[Array, "*shape"], ref_logp: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """k3 = r - log r - 1 with r = reference / policy: unbiased and never negative.

    Source: GRPO, arXiv 2402.03300, equation 4.
    """
    difference = log_ratio(logp, ref_logp)
    return jnp.exp(difference) - difference - 1.0


ESTIMATORS: dict[str, Callable[[Array, Array], Array]] = {"k1": k1, "k2": k2, "k3": k3}

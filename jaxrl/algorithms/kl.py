"""Estimators of KL(policy || reference) from sampled tokens (Schulman 2020, "Approximating KL divergence")."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

LOG_RATIO_LIMIT = 10.0
"""The log-ratio is clamped to +-10. exp(10) is 22,026; beyond that a single token would dominate the step."""


def log_ratio(logp: Float[Array, "*shape"], ref_logp: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log(reference / policy), clamped to +-10."""
    return jnp.clip(ref_logp - logp, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def k1(logp: Float[Array, "*shape"], ref_logp: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """k1 = log(policy / reference): unbiased, high variance, may be negative.

    Its gradient with respect to `logp` has expectation 0, so `LossSpec` accepts it in the reward but not in the loss.
    """
    return -log_ratio(logp, ref_logp)


def k2(logp: Float[Array, "*shape"], ref_logp: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """k2 = log(policy / reference)^2 / 2: biased, but the expectation of its gradient is the gradient of the KL."""
    return 0.5 * jnp.square(log_ratio(logp, ref_logp))


def k3(logp: Float[Array, "*shape"], ref_logp: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """k3 = r - log r - 1 with r = reference / policy: unbiased, never negative.

    Source: GRPO, arXiv 2402.03300, equation 4.
    """
    log_r = log_ratio(logp, ref_logp)
    return jnp.exp(log_r) - log_r - 1.0


ESTIMATORS: dict[str, Callable[[Array, Array], Array]] = {"k1": k1, "k2": k2, "k3": k3}

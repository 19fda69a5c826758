"""Top-k, top-p and min-p as thresholds on the logits, without sorting the vocabulary."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def ordered(x: Float[Array, "B V"]) -> Int[Array, "B V"]:
    """Float32 as int32 with the same order, so that bisection finds a threshold exactly."""
    bits = jax.lax.bitcast_convert_type(x + 0.0, jnp.int32)  # + 0.0 maps -0.0 to 0.0
    return jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)


def _threshold(enough, keys: Int[Array, "B V"]) -> Int[Array, " B"]:
    """The largest threshold of each row for which `enough(threshold)` holds; the lowest int32 if it never holds.

    `enough` must not hold for a higher threshold than one for which it fails. The result is at most the row's largest
    key, so at least one token is kept.
    """

    def halve(_, bounds):
        low, high = bounds
        middle = (low | high) - ((low ^ high) >> 1)  # the mean, rounded up, without overflow
        good = enough(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, jnp.maximum(middle - 1, low))

    bounds = jnp.full(keys.shape[:1], -(2**31), jnp.int32), jnp.max(keys, axis=1)
    return jax.lax.fori_loop(0, 32, halve, bounds)[0]


def top_k_mask(logits: Float[Array, "B V"], top_k: Int[Array, " B"]) -> Bool[Array, "B V"]:
    """True for the top_k largest logits of each row. 0, or more than V, keeps all. Ties with the last one are kept."""
    keys = ordered(logits)
    required = jnp.where(top_k > 0, top_k, logits.shape[1])

    def enough(threshold):
        return jnp.sum(keys >= threshold[:, None], axis=1, dtype=jnp.int32) >= required

    return keys >= _threshold(enough, keys)[:, None]


def top_p_mask(logits: Float[Array, "B V"], top_p: Float[Array, " B"]) -> Bool[Array, "B V"]:
    """True for the smallest set of likeliest tokens whose probability reaches top_p (Holtzman et al. 2020, equation 2).

    1 keeps all tokens. The likeliest is always kept, even if a tiny top_p is flushed to 0. Tokens as likely as the last
    one kept are kept too. Logits of -inf have probability 0.
    """
    keys, weights = ordered(logits), jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
    required = top_p * jnp.sum(weights, axis=1)

    def enough(threshold):
        return jnp.sum(jnp.where(keys >= threshold[:, None], weights, 0.0), axis=1) >= required

    kept = keys >= _threshold(enough, keys)[:, None]
    return kept | (top_p >= 1.0)[:, None]


def min_p_mask(logits: Float[Array, "B V"], min_p: Float[Array, " B"]) -> Bool[Array, "B V"]:
    """True for tokens at least min_p times as likely as the best; 0: off (Nguyen et al. 2024, arXiv 2407.01082)."""
    return logits - jnp.max(logits, axis=1, keepdims=True) >= jnp.log(min_p)[:, None]


def truncate(
    logits: Float[Array, "B V"], top_k: Int[Array, " B"], top_p: Float[Array, " B"], min_p: Float[Array, " B"]
) -> Float[Array, "B V"]:
    """Scaled logits with every excluded token at -inf: top-k, then top-p of the kept tokens, then min-p."""
    logits = jnp.where(top_k_mask(logits, top_k), logits, -jnp.inf)
    logits = jnp.where(top_p_mask(logits, top_p), logits, -jnp.inf)
    return jnp.where(min_p_mask(logits, min_p), logits, -jnp.inf)

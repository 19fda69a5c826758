"""Which tokens may be drawn: top-k, top-p and min-p as thresholds, without sorting the vocabulary."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def ordered(x: Float[Array, "B V"]) -> Int[Array, "B V"]:
    """Float32 as int32 in the same order, so that a threshold can be found exactly by bisection."""
    bits = jax.lax.bitcast_convert_type(x + 0.0, jnp.int32)  # + 0.0 makes -0.0 and 0.0 one number
    return jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)


def _threshold(enough, keys: Int[Array, "B V"]) -> Int[Array, " B"]:
    """The largest threshold of each row for which `enough(threshold)` holds; the lowest int32 must do.

    None is larger than the row's largest key, so something is kept even where enough is nothing.
    """

    def halve(_, bounds):
        low, high = bounds
        middle = (low | high) - ((low ^ high) >> 1)  # the mean, rounded up, without overflow
        good = enough(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, jnp.maximum(middle - 1, low))

    bounds = jnp.full(keys.shape[:1], -(2**31), jnp.int32), jnp.max(keys, axis=1)
    return jax.lax.fori_loop(0, 32, halve, bounds)[0]


def top_k_mask(logits: Float[Array, "B V"], top_k: Int[Array, " B"]) -> Bool[Array, "B V"]:
    """The top_k largest logits of each row; 0 keeps all. Tokens equal to the last one kept are kept too."""
    keys = ordered(logits)
    wanted = jnp.where(top_k > 0, top_k, logits.shape[1])

    def enough(threshold):
        return jnp.sum(keys >= threshold[:, None], axis=1, dtype=jnp.int32) >= wanted

    return keys >= _threshold(enough, keys)[:, None]


def top_p_mask(logits: Float[Array, "B V"], top_p: Float[Array, " B"]) -> Bool[Array, "B V"]:
    """The fewest likeliest tokens whose probability reaches top_p (Holtzman et al. 2020, equation 2).

    1 keeps all, and the likeliest is always kept: a CPU takes a tiny top_p for 0. Tokens as likely as the last one kept
    are kept too. Logits of -inf are never counted.
    """
    keys, weights = ordered(logits), jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
    wanted = top_p * jnp.sum(weights, axis=1)

    def enough(threshold):
        return jnp.sum(jnp.where(keys >= threshold[:, None], weights, 0.0), axis=1) >= wanted

    kept = keys >= _threshold(enough, keys)[:, None]
    return kept | (top_p >= 1.0)[:, None]


def min_p_mask(logits: Float[Array, "B V"], min_p: Float[Array, " B"]) -> Bool[Array, "B V"]:
    """Tokens at least min_p times as likely as the best (Nguyen et al. 2024, arXiv 2407.01082); 0 is off."""
    return logits - jnp.max(logits, axis=1, keepdims=True) >= jnp.log(min_p)[:, None]


def truncate(
    logits: Float[Array, "B V"], top_k: Int[Array, " B"], top_p: Float[Array, " B"], min_p: Float[Array, " B"]
) -> Float[Array, "B V"]:
    """Scaled logits with every token ruled out at -inf: top-k, then top-p of the rest, then min-p."""
    logits = jnp.where(top_k_mask(logits, top_k), logits, -jnp.inf)
    logits = jnp.where(top_p_mask(logits, top_p), logits, -jnp.inf)
    return jnp.where(min_p_mask(logits, min_p), logits, -jnp.inf)

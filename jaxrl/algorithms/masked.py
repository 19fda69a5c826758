"""Sums and means over the tokens that count; what the mask hides may be anything, NaN too."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def hide(values: Float[Array, "*shape"], mask: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`values` where `mask` is not 0, else exact zeros.

    A select, not a product: 0 * NaN is NaN, and the gradient of a select is 0 where it was not taken.
    """
    return jnp.where(mask > 0, values, jnp.zeros_like(values))


def masked_sum(values: Float[Array, "*shape"], mask: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Sum of `values` where `mask` is 1."""
    return jnp.sum(hide(values, mask))


def masked_mean(values: Float[Array, "*shape"], mask: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Mean of `values` where `mask` is 1; 0 when the mask is empty."""
    return masked_sum(values, mask) / jnp.maximum(jnp.sum(mask), 1.0)


def masked_max(
    values: Float[Array, "B T"], mask: Float[Array, "B T"], blocks: int | None = None
) -> Float[Array, "*blocks"]:
    """Largest of `values` where `mask` is 1, and at least 0 (what an empty mask gives).

    blocks: take it over each of so many equal blocks of rows, [blocks]; rows on different devices need not meet then.
    """
    shown = hide(values, mask)
    if blocks is None:
        return jnp.max(shown, initial=0.0)
    return jnp.max(shown.reshape(blocks, -1), axis=1, initial=0.0)


def row_mean(values: Float[Array, "B T"], mask: Float[Array, "B T"]) -> Float[Array, " B"]:
    """Mean over the tokens of each row; 0 for a row without tokens."""
    return jnp.sum(hide(values, mask), axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1.0)

"""Sums, means and maxima over the tokens of a mask. Masked-out values may be anything, including NaN."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def hide(values: Float[Array, "*shape"], mask: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`values` where `mask` is not 0, exact zeros elsewhere.

    A select, not a product: 0 * NaN is NaN, while a select passes no gradient to the side that was not selected.
    """
    return jnp.where(mask > 0, values, jnp.zeros_like(values))


def masked_sum(values: Float[Array, "*shape"], mask: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Sum of `values` where `mask` is 1."""
    return jnp.sum(hide(values, mask))


def masked_max(values: Float[Array, "*shape"], mask: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Maximum of `values` where `mask` is 1, and of 0: an empty mask gives 0."""
    return jnp.max(hide(values, mask), initial=0.0)


def row_mean(values: Float[Array, "B T"], mask: Float[Array, "B T"]) -> Float[Array, " B"]:
    """Mean over the tokens of each row; 0 for a row without tokens."""
    return jnp.sum(hide(values, mask), axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1.0)

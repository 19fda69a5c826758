"""Causal grouped-query attention, behind two functions: over whole rows, and of one token over a cache."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

IMPLEMENTATIONS = ("plain", "cudnn")
# Queries of one product, which sees the keys up to the last of them: half of what all queries with all keys would
# cost, and more and smaller products the fewer they are. Long rows take more at a time, to stay at so many products.
QUERIES, BLOCKS = 128, 16
MASKED = -1e30  # finite, so that a slot without a row gives finite garbage and never NaN


def attend(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T K H"],
    value: Float[Array, "B T K H"],
    lengths: Int[Array, " B"],
    implementation: str,
) -> Float[Array, "B T N H"]:
    """Attention of every position to itself and earlier ones, so never of a row's `lengths` true ones to its padding.

    'plain' runs everywhere; 'cudnn' is the fused GPU kernel (bfloat16, T a multiple of 128 is best), which leaves
    padding out; what it and 'plain' give there is finite and of no meaning.
    """
    if implementation == "cudnn":
        lengths = lengths.astype(jnp.int32)
        return jax.nn.dot_product_attention(query, key, value, is_causal=True, query_seq_lengths=lengths,
                                            key_value_seq_lengths=lengths, implementation="cudnn")
    if implementation != "plain":
        raise ValueError(f"attention must be one of {IMPLEMENTATIONS}, got {implementation!r}.")
    length = query.shape[1]
    width = block_width(length)
    parts = [_plain(query[:, start : start + width], key[:, : start + width], value[:, : start + width])
             for start in range(0, length, width)]
    return jnp.concatenate(parts, axis=1)


def block_width(length: int) -> int:
    """Queries of one product of 'plain' in rows of so many positions."""
    return QUERIES * -(-length // (QUERIES * BLOCKS))


def _plain(
    query: Float[Array, "B Q N H"], key: Float[Array, "B T K H"], value: Float[Array, "B T K H"]
) -> Float[Array, "B Q N H"]:
    """Attention of the last Q of T positions."""
    batch, count, heads, size = query.shape
    length, groups = key.shape[1:3]
    rows = query.swapaxes(1, 2).reshape(batch, groups, (heads // groups) * count, size)
    scores = jnp.matmul(rows, key.transpose(0, 2, 3, 1), preferred_element_type=jnp.float32) * size**-0.5
    scores = scores.reshape(batch, groups, heads // groups, count, length)
    visible = jnp.tri(count, length, length - count, dtype=bool)
    scores = jnp.where(visible[None, None, None], scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    weights = weights.reshape(batch, groups, (heads // groups) * count, length)
    mixed = jnp.matmul(weights, value.swapaxes(1, 2))
    return mixed.reshape(batch, heads, count, size).swapaxes(1, 2)


def attend_cached(
    query: Float[Array, "B 1 N H"],
    keys: Float[Array, "B K J H W"],
    values: Float[Array, "B K J W H"],
    position: Int[Array, " B"],
) -> Float[Array, "B 1 N H"]:
    """Attention of one token a row, at `position`, to the cached positions up to and including it.

    Each product covers one block of W positions and the blocks are added up in order; blocks beyond
    `position` add exact zeros. So the result is the same, bit for bit, for every number J of blocks that
    holds the row.
    """
    batch, groups, blocks, size, width = keys.shape
    heads = query.shape[2]
    rows = query[:, 0].reshape(batch, groups, 1, heads // groups, size)
    rows = jnp.broadcast_to(rows, (batch, groups, blocks, heads // groups, size))
    scores = jnp.matmul(rows, keys, preferred_element_type=jnp.float32) * size**-0.5
    place = jnp.arange(blocks * width).reshape(1, blocks, width)
    visible = place <= position[:, None, None]
    scores = jnp.where(visible[:, None, :, None], scores, MASKED)
    weights = jnp.exp(scores - jnp.max(scores, axis=(2, 4), keepdims=True))
    mixed = jnp.matmul(weights.astype(values.dtype), values, preferred_element_type=jnp.float32)
    total = jnp.sum(jnp.sum(weights, axis=2), axis=-1)
    mixed = jnp.sum(mixed, axis=2) / total[..., None]
    return mixed.astype(query.dtype).reshape(batch, 1, heads, size)

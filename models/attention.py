"""Causal grouped-query attention, behind two functions: over whole rows, and of one token over a cache."""

import functools

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
    ends = [min(start + width, length) for start in range(0, length, width)]
    queries = jnp.split(query, ends[:-1], axis=1)  # as slices, their gradients would be padded and added up
    parts = [_plain(part, key[:, :end], value[:, :end]) for part, end in zip(queries, ends, strict=True)]
    return jnp.concatenate(parts, axis=1)


def block_width(length: int) -> int:
    """Queries of one product of 'plain' in rows of so many positions."""
    return QUERIES * -(-length // (QUERIES * BLOCKS))


def _plain(
    query: Float[Array, "B Q N H"], key: Float[Array, "B T K H"], value: Float[Array, "B T K H"]
) -> Float[Array, "B Q N H"]:
    """Attention of the last Q of T positions."""
    batch, count, heads, size = query.shape
    groups = key.shape[2]
    rows = query.swapaxes(1, 2).reshape(batch, groups, (heads // groups) * count, size)
    mixed = _mix(count, rows, key.swapaxes(1, 2), value.swapaxes(1, 2))
    return mixed.reshape(batch, heads, count, size).swapaxes(1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mix(
    count: int, rows: Float[Array, "B K R H"], key: Float[Array, "B K T H"], value: Float[Array, "B K T H"]
) -> Float[Array, "B K R H"]:
    """softmax(rows key' / sqrt(H)) value, where the rows are `count` last positions of each of some heads.

    Its gradient goes over arrays of R x T less often than JAX's of the same lines, and never for the mask.
    """
    return _mix_forward(count, rows, key, value)[0]


def _mix_forward(count, rows, key, value):
    # Scaled as float32: a bfloat16 query would be rounded once more, and not as `attend_cached` rounds.
    scores = jnp.matmul(rows, key.swapaxes(2, 3), preferred_element_type=jnp.float32) * rows.shape[3]**-0.5
    shape, length = scores.shape, scores.shape[3]
    visible = jnp.tri(count, length, length - count, dtype=bool)
    scores = jnp.where(visible[None, None, None], scores.reshape(*shape[:2], -1, count, length), MASKED)
    weights = jax.nn.softmax(scores.reshape(shape), axis=-1).astype(value.dtype)
    mixed = jnp.matmul(weights, value)
    return mixed, (rows, key, value, weights, mixed)


def _mix_backward(count, saved, dmixed):
    """FlashAttention (Dao et al. 2022, arXiv 2205.14135), appendix B.2."""
    rows, key, value, weights, mixed = saved
    wide = jnp.float32
    mean = jnp.sum(dmixed.astype(wide) * mixed.astype(wide), axis=-1, keepdims=True)
    dweights = jnp.matmul(dmixed, value.swapaxes(2, 3), preferred_element_type=wide)
    dscores = weights.astype(wide) * (dweights - mean) * rows.shape[3]**-0.5  # weights are 0 where nothing is visible
    dscores = dscores.astype(rows.dtype)
    # As [.., H, T]: on a CPU the products take two thirds of the time that they take as [.., T, H].
    over_rows = (((2,), (2,)), ((0, 1), (0, 1)))
    dkey = jax.lax.optimization_barrier(jax.lax.dot_general(rows, dscores, over_rows)).swapaxes(2, 3)
    dvalue = jax.lax.optimization_barrier(jax.lax.dot_general(dmixed, weights, over_rows)).swapaxes(2, 3)
    return jnp.matmul(dscores, key), dkey, dvalue


_mix.defvjp(_mix_forward, _mix_backward)


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

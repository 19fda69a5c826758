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
        return jax.nn.dot_product_attention(
            query,
            key,
            value,
            is_causal=True,
            query_seq_lengths=lengths,
            key_value_seq_lengths=lengths,
            implementation="cudnn",
        )
    if implementation != "plain":
        raise ValueError(f"attention must be one of {IMPLEMENTATIONS}, got {implementation!r}.")
    return _attend_plain(query, key, value)


def block_width(length: int) -> int:
    """Queries of one product of 'plain' in rows of so many positions."""
    return QUERIES * -(-length // (QUERIES * BLOCKS))


def _blocks(length: int) -> list[slice]:
    """Positions of each block of queries."""
    width = block_width(length)
    return [slice(start, min(start + width, length)) for start in range(0, length, width)]


@jax.custom_vjp
def _attend_plain(
    query: Float[Array, "B T N H"], key: Float[Array, "B T K H"], value: Float[Array, "B T K H"]
) -> Float[Array, "B T N H"]:
    """softmax(query key' / sqrt(H)) value, a block of queries at a time.

    Its gradient goes over arrays of queries x keys less often than JAX's of the same lines, and never for the mask.
    """
    return _attend_plain_forward(query, key, value)[0]


def _attend_plain_forward(query, key, value):
    weights, mixed = [], []
    for block in _blocks(query.shape[1]):
        keys, values = (whole[:, : block.stop].swapaxes(1, 2) for whole in (key, value))
        rows = _rows(query[:, block], key.shape[2])
        # Scaled as float32: a bfloat16 query would be rounded once more, and not as `attend_cached` rounds.
        scores = jnp.matmul(rows, keys.swapaxes(2, 3), preferred_element_type=jnp.float32) * query.shape[3] ** -0.5
        shape, count = scores.shape, block.stop - block.start
        visible = jnp.tri(count, block.stop, block.start, dtype=bool)
        scores = jnp.where(visible, scores.reshape(*shape[:2], -1, count, block.stop), MASKED).reshape(shape)
        weights.append(jax.nn.softmax(scores, axis=-1).astype(value.dtype))
        mixed.append(jnp.matmul(weights[-1], values))
    return _positions(mixed, query.shape[2]), (query, key, value, weights, mixed)


def _attend_plain_backward(saved, dmixed):
    """FlashAttention (Dao et al. 2022, arXiv 2205.14135), appendix B.2."""
    query, key, value, *forward = saved
    wide, scale, blocks = jnp.float32, query.shape[3] ** -0.5, _blocks(query.shape[1])
    over_rows = (((2,), (2,)), ((0, 1), (0, 1)))
    dquery, dkey, dvalue = [], [], []
    for block, weights, mixed in zip(blocks, *forward, strict=True):
        keys, values = (whole[:, : block.stop].swapaxes(1, 2) for whole in (key, value))
        rows, drows = (_rows(whole[:, block], key.shape[2]) for whole in (query, dmixed))
        mean = jnp.sum(drows.astype(wide) * mixed.astype(wide), axis=-1, keepdims=True)
        dweights = jnp.matmul(drows, values.swapaxes(2, 3), preferred_element_type=wide)
        # Weights are 0 where nothing is visible. The scale waits for the products, which are smaller.
        dscores = (weights.astype(wide) * (dweights - mean)).astype(query.dtype)
        dquery.append((jnp.matmul(dscores, keys, preferred_element_type=wide) * scale).astype(query.dtype))
        dkey.append(jax.lax.dot_general(rows, dscores, over_rows, preferred_element_type=wide) * scale)
        dvalue.append(jax.lax.dot_general(drows, weights, over_rows, preferred_element_type=wide))
    dkey, dvalue = (_add_up(parts, blocks).astype(key.dtype) for parts in (dkey, dvalue))
    return _positions(dquery, query.shape[2]), dkey, dvalue


_attend_plain.defvjp(_attend_plain_forward, _attend_plain_backward)


def _rows(part: Float[Array, "B Q N H"], groups: int) -> Float[Array, "B K R H"]:
    """Queries of a block: those of all heads that share a key, one head after the other."""
    batch, count, heads, size = part.shape
    return part.swapaxes(1, 2).reshape(batch, groups, (heads // groups) * count, size)


def _positions(parts: list[Float[Array, "B K _ H"]], heads: int) -> Float[Array, "B T N H"]:
    """`_rows` of all blocks as positions again."""
    batch, _, _, size = parts[0].shape
    return jnp.concatenate([part.reshape(batch, heads, -1, size).swapaxes(1, 2) for part in parts], axis=1)


def _add_up(parts: list[Float[Array, "B K H _"]], blocks: list[slice]) -> Float[Array, "B T K H"]:
    """What the keys are given in all, from what each block gives to those that it sees.

    The parts are [.., H, T], since on a CPU such products take two thirds of the time that they take as [.., T, H].
    They are added up as they lie, and turned once, behind a barrier, or XLA would turn each of them first.
    """
    sums = [
        functools.reduce(jnp.add, (part[..., block] for part in parts[place:])) for place, block in enumerate(blocks)
    ]
    return jax.lax.optimization_barrier(jnp.concatenate(sums, axis=3)).transpose(0, 3, 1, 2)


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

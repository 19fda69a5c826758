"""Causal grouped-query attention: `attend` over whole rows, `attend_cached` of one token over a cache [B, K, S, H]."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

IMPLEMENTATIONS = ("plain", "cudnn")
# A block of queries is multiplied with the keys up to the end of the block, which halves the work of a full [T, T]
# product. At least QUERIES queries per block; long rows use longer blocks, so that there are at most BLOCKS products.
QUERIES, BLOCKS = 128, 16
MASKED = -1e30  # the score of an invisible position; finite, so that a row without visible positions gives no NaN


def attend(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T K H"],
    value: Float[Array, "B T K H"],
    lengths: Int[Array, " B"],
    implementation: str,
) -> Float[Array, "B T N H"]:
    """Causal attention of right-padded rows: no true position (one below `lengths`) ever sees padding.

    implementation: 'plain' runs everywhere; 'cudnn' is the fused GPU kernel (bfloat16, T a multiple of 128 is best).
    Outputs at padding positions are finite but meaningless. Raises ValueError for another implementation.
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
        raise ValueError(f"attention: expected one of {', '.join(IMPLEMENTATIONS)}, got {implementation!r}.")
    return _attend_plain(query, key, value)


def block_width(length: int) -> int:
    """Queries per block of the 'plain' implementation in rows of `length` positions."""
    return QUERIES * -(-length // (QUERIES * BLOCKS))


def _blocks(length: int) -> list[slice]:
    """Positions of each block of queries."""
    width = block_width(length)
    return [slice(start, min(start + width, length)) for start in range(0, length, width)]


@jax.custom_vjp
def _attend_plain(
    query: Float[Array, "B T N H"], key: Float[Array, "B T K H"], value: Float[Array, "B T K H"]
) -> Float[Array, "B T N H"]:
    """softmax(query @ key.T / sqrt(H)) @ value per head, one block of queries at a time.

    The custom gradient makes fewer passes over [queries, keys] arrays than autodiff, and none for the mask.
    """
    return _attend_plain_forward(query, key, value)[0]


def _attend_plain_forward(query, key, value):
    weights, mixed = [], []
    for block in _blocks(query.shape[1]):
        keys, values = (whole[:, : block.stop].swapaxes(1, 2) for whole in (key, value))
        rows = _rows(query[:, block], key.shape[2])
        # The float32 scores are scaled, as in `attend_cached`: scaling a bfloat16 query would round it once more.
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
        # Weights are 0 where the mask is. The scale is applied to the products, which are smaller than dscores.
        dscores = (weights.astype(wide) * (dweights - mean)).astype(query.dtype)
        dquery.append((jnp.matmul(dscores, keys, preferred_element_type=wide) * scale).astype(query.dtype))
        dkey.append(jax.lax.dot_general(rows, dscores, over_rows, preferred_element_type=wide) * scale)
        dvalue.append(jax.lax.dot_general(drows, weights, over_rows, preferred_element_type=wide))
    dkey, dvalue = (_add_up(parts, blocks).astype(key.dtype) for parts in (dkey, dvalue))
    return _positions(dquery, query.shape[2]), dkey, dvalue


_attend_plain.defvjp(_attend_plain_forward, _attend_plain_backward)


def _rows(part: Float[Array, "B Q N H"], groups: int) -> Float[Array, "B K R H"]:
    """Queries of a block, grouped by KV head: R = N / K * Q, head after head of a group."""
    batch, count, heads, size = part.shape
    return part.swapaxes(1, 2).reshape(batch, groups, (heads // groups) * count, size)


def _positions(parts: list[Float[Array, "B K _ H"]], heads: int) -> Float[Array, "B T N H"]:
    """Inverse of `_rows` for the outputs of all blocks."""
    batch, _, _, size = parts[0].shape
    return jnp.concatenate([part.reshape(batch, heads, -1, size).swapaxes(1, 2) for part in parts], axis=1)


def _add_up(parts: list[Float[Array, "B K H _"]], blocks: list[slice]) -> Float[Array, "B T K H"]:
    """Sum of the blocks' gradients of keys or values; a block has a gradient only for the positions it sees.

    parts: by block, [.., H, positions], because such products take two thirds of the time of [.., positions, H] on a
    CPU. The sum is transposed once, behind a barrier; without it XLA transposes each part.
    """
    sums = [
        functools.reduce(jnp.add, (part[..., block] for part in parts[first:])) for first, block in enumerate(blocks)
    ]
    return jax.lax.optimization_barrier(jnp.concatenate(sums, axis=3)).transpose(0, 3, 1, 2)


def attend_cached(
    query: Float[Array, "B 1 N H"],
    keys: Float[Array, "B K S H"],
    values: Float[Array, "B K S H"],
    position: Int[Array, " B"],
) -> Float[Array, "B 1 N H"]:
    """Attention of one token per row, at `position`, to the cached positions up to and including it."""
    batch, groups, length, size = keys.shape
    rows = query.reshape(batch, groups, -1, size)
    scores = jnp.einsum("bkrh,bksh->bkrs", rows, keys, preferred_element_type=jnp.float32) * size**-0.5
    visible = jnp.arange(length)[None] <= position[:, None]
    scores = jnp.where(visible[:, None, None], scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
    return jnp.einsum("bkrs,bksh->bkrh", weights, values).reshape(query.shape)

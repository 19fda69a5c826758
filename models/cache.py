"""The key-value cache of a decoding model: one pair of arrays a layer, cut into blocks, written in place."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from models.config import Qwen2Config

# Positions per block. Keys lie transposed inside a block, so that both products of a decode step read memory
# in order (2x on CPU); every product has the shape of one block, so a longer cache adds blocks and changes no
# number.
BLOCK = 64

Keys = Float[Array, "B K J H W"]
Values = Float[Array, "B K J W H"]


class KVCache(NamedTuple):
    """Keys and values of every layer; position s of a row lies in block s // W at place s % W."""

    keys: tuple[Keys, ...]
    values: tuple[Values, ...]


def init_cache(config: Qwen2Config, batch: int, size: int, dtype: jnp.dtype) -> KVCache:
    """An empty cache of at least `size` positions (rounded up to whole blocks) for `batch` rows."""
    start = (batch, config.num_key_value_heads, -(-size // BLOCK))
    layers = range(config.num_hidden_layers)
    return KVCache(
        keys=tuple(jnp.zeros((*start, config.head_dim, BLOCK), dtype) for _ in layers),
        values=tuple(jnp.zeros((*start, BLOCK, config.head_dim), dtype) for _ in layers),
    )


def cache_size(cache: KVCache) -> int:
    """Positions a row can hold."""
    return cache.values[0].shape[2] * cache.values[0].shape[3]


def cache_bytes(config: Qwen2Config, rows: int, positions: int, dtype: DTypeLike, split: int = 1) -> int:
    """Bytes of a cache for `rows` rows; split: devices that share the heads, if these can be divided."""
    shapes = jax.eval_shape(lambda: init_cache(config, rows, positions, jnp.dtype(dtype)))
    heads = split if config.num_key_value_heads % split == 0 else 1
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)) // heads


def write_prefix(
    layer: tuple[Keys, Values], key: Float[Array, "B T K H"], value: Float[Array, "B T K H"]
) -> tuple[Keys, Values]:
    """Write positions 0 .. T-1 of every row; the rest of the last block touched becomes zero."""
    keys, values = layer
    batch, length, heads, size = key.shape
    blocks = -(-length // BLOCK)

    def cut(new: Float[Array, "B T K H"]) -> Float[Array, "B K J W H"]:
        new = jnp.pad(new.swapaxes(1, 2), ((0, 0), (0, 0), (0, blocks * BLOCK - length), (0, 0)))
        return new.reshape(batch, heads, blocks, BLOCK, size)

    origin = (0, 0, 0, 0, 0)
    keys = jax.lax.dynamic_update_slice(keys, cut(key).swapaxes(3, 4).astype(keys.dtype), origin)
    return keys, jax.lax.dynamic_update_slice(values, cut(value).astype(values.dtype), origin)


def write_token(
    layer: tuple[Keys, Values],
    key: Float[Array, "B 1 K H"],
    value: Float[Array, "B 1 K H"],
    position: Int[Array, " B"],
) -> tuple[Keys, Values]:
    """Write one position of every row; a position beyond the cache is dropped."""
    keys, values = layer
    rows, block, place = jnp.arange(keys.shape[0]), position // BLOCK, position % BLOCK
    keys = keys.at[rows, :, block, :, place].set(key[:, 0].astype(keys.dtype), mode="drop", unique_indices=True)
    values = values.at[rows, :, block, place].set(value[:, 0].astype(values.dtype), mode="drop", unique_indices=True)
    return keys, values

"""The key-value cache of a decoding model in the plain layout [B, K, S, H], written in place.

`CacheLayout` is everything that knows the layout; a backend may replace it (see `models.kernels`).
"""

import dataclasses
import functools
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from models.attention import attend_cached
from models.config import Qwen2Config

# Cache lengths are multiples of 64: the block of models.cpu, and a multiple of the tiles of GPU attention kernels.
BLOCK = 64

Layer = tuple[Float[Array, "B K S ..."], Float[Array, "B K S ..."]]
"""Keys and values of one layer, in the layout of a `CacheLayout`."""


class KVCache(NamedTuple):
    """Keys and values of every layer. Axis 0 is the row, axis 1 the KV head; axis 2 grows with the positions."""

    keys: tuple[Float[Array, "B K S ..."], ...]
    values: tuple[Float[Array, "B K S ..."], ...]


@dataclasses.dataclass(frozen=True)
class CacheLayout:
    """Keys and values [B, K, S, H] of each layer: position s of a row is entry s of axis 2."""

    block: ClassVar[int] = 1  # positions per entry of axis 2

    def init(self, config: Qwen2Config, rows: int, positions: int, dtype: DTypeLike) -> KVCache:
        """A cache of zeros for `rows` rows; `positions` is rounded up to a multiple of BLOCK."""
        positions = -(-positions // BLOCK) * BLOCK
        keys, values = self._shapes(rows, config.num_key_value_heads, positions, config.head_dim)
        layers = range(config.num_hidden_layers)
        return KVCache(*(tuple(jnp.zeros(shape, dtype) for _ in layers) for shape in (keys, values)))

    def length(self, cache: KVCache) -> int:
        """Positions a row can hold."""
        return cache.values[0].shape[2] * self.block

    def write_prefix(self, layer: Layer, key: Float[Array, "B T K H"], value: Float[Array, "B T K H"]) -> Layer:
        """Write positions 0 .. T-1 of every row."""
        return tuple(  # pyright: ignore[reportReturnType]
            jax.lax.dynamic_update_slice(old, new.swapaxes(1, 2).astype(old.dtype), (0, 0, 0, 0))
            for old, new in zip(layer, (key, value), strict=True)
        )

    def write_token(
        self, layer: Layer, key: Float[Array, "B 1 K H"], value: Float[Array, "B 1 K H"], position: Int[Array, " B"]
    ) -> Layer:
        """Write one position of every row; a position beyond the cache is dropped."""
        rows = jnp.arange(position.shape[0])
        return tuple(  # pyright: ignore[reportReturnType]
            old.at[rows, :, position].set(new[:, 0].astype(old.dtype), mode="drop", unique_indices=True)
            for old, new in zip(layer, (key, value), strict=True)
        )

    def attend(
        self, query: Float[Array, "B 1 N H"], layer: Layer, position: Int[Array, " B"]
    ) -> Float[Array, "B 1 N H"]:
        """Attention of one token per row, at `position`, to the cached positions up to and including it."""
        return attend_cached(query, *layer, position)

    def insert(self, cache: KVCache, prompts: KVCache, source: Int[Array, " B"], target: Int[Array, " B"]) -> KVCache:
        """Copy row source[i] of `prompts` into row target[i] of the cache; a target beyond the last row is dropped."""

        def copy(old, prompt):
            size = min(prompt.shape[2], old.shape[2])  # the end of a prompt's cache may be padding that no row reaches
            return old.at[target, :, :size].set(prompt[source][:, :, :size], mode="drop", unique_indices=True)

        return jax.tree.map(copy, cache, prompts)

    def grow(self, cache: KVCache, positions: int) -> KVCache:
        """The cache with zeros appended up to `positions` positions (a multiple of BLOCK)."""

        def extend(x):
            shape = (*x.shape[:2], positions // self.block - x.shape[2], *x.shape[3:])
            return jnp.concatenate([x, self._zeros(shape, x.dtype)], axis=2)

        return jax.tree.map(extend, cache)

    def shrink(self, cache: KVCache, positions: int) -> KVCache:
        """The first `positions` positions (a multiple of BLOCK) of the cache."""
        return jax.tree.map(lambda x: x[:, :, : positions // self.block], cache)

    def _shapes(self, rows: int, heads: int, positions: int, size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of one layer's keys and values."""
        shape = (rows, heads, positions, size)
        return shape, shape

    def _zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        """The part that `grow` appends."""
        return jnp.zeros(shape, dtype)


@functools.lru_cache(maxsize=4096)  # a plan computes it hundreds of times
def cache_bytes(config: Qwen2Config, rows: int, positions: int, dtype: DTypeLike, split: int = 1) -> int:
    """Bytes of a cache per device, in any layout. split: devices that the KV heads are sharded over, if divisible.

    `positions` is rounded up to a multiple of BLOCK.
    """
    shapes = jax.eval_shape(lambda: CacheLayout().init(config, rows, positions, jnp.dtype(dtype)))
    heads = split if config.num_key_value_heads % split == 0 else 1
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)) // heads

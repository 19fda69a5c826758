"""A short name for the values of a parameter tree, to tell whether two runs begin with the same weights."""

import hashlib
import json
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, UInt32

from jaxrl.runtime.multihost import fetch

BLOCK_BYTES = 64 << 20  # of an array that is still in its files, at a time


def fingerprint(params: Any, dtype: DTypeLike = jnp.float32) -> str:
    """32 hexadecimal digits of the names, shapes and float32 bits of all arrays; the same on any mesh.

    dtype: what numbers are rounded to before. Leaves may be such as read their parts from files (`FileArray`).

    Computed where the arrays lie, each read once, and in whole numbers, so that no order of summing matters. No file is
    looked at: the same numbers in other shards, in bfloat16 or in a checkpoint are the same weights. It tells weights
    apart that differ by accident (2 x 32 bits an array), not those that somebody made to look alike.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    sums = fetch([_sums_of(leaf, jnp.dtype(dtype)) for _, leaf in leaves])
    told = sorted(
        (jax.tree_util.keystr(path), leaf.shape, found.tolist())
        for (path, leaf), found in zip(leaves, sums, strict=True)
    )
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]


def _sums_of(leaf: Any, dtype: np.dtype) -> UInt32[Array, "2"]:
    if isinstance(leaf, jax.Array | np.ndarray):
        return _sums(leaf, np.uint32(0), dtype)
    row = leaf.size // leaf.shape[0]
    rows = max(1, BLOCK_BYTES // (4 * row))
    return sum(
        _sums(leaf[start : start + rows], np.uint32(start * row % 2**32), dtype)
        for start in range(0, leaf.shape[0], rows)
    )


@partial(jax.jit, static_argnums=2)
def _sums(leaf: Array, first: Array, dtype: np.dtype) -> UInt32[Array, "2"]:
    """Sums over all elements of two mixtures of value and place (from `first` on), modulo 2**32."""
    kind = jnp.finfo(dtype)
    # Not two casts: the compiler may leave such a pair out.
    rounded = jax.lax.reduce_precision(leaf.astype(jnp.float32), kind.nexp, kind.nmant)
    bits = jax.lax.bitcast_convert_type(rounded, jnp.uint32).reshape(-1)
    places = first + jax.lax.iota(jnp.uint32, bits.size)
    # MurmurHash3's last steps (A. Appleby, 2011), from two starts: every bit of value and place reaches all bits.
    return jnp.stack(
        [
            jnp.sum(_mixed(bits ^ _mixed(places + jnp.uint32(start))), dtype=jnp.uint32)
            for start in (0x9E3779B9, 0x85EBCA77)
        ]
    )


def _mixed(x: UInt32[Array, " N"]) -> UInt32[Array, " N"]:
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> jnp.uint32(shift))) * jnp.uint32(factor)
    return x ^ (x >> jnp.uint32(16))

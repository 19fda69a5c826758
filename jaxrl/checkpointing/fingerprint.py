"""A hash of the values of a parameter tree, to check that two runs start from the same weights."""

import hashlib
import json
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, UInt32

from jaxrl.runtime.multihost import gather_to_host

BLOCK_BYTES = 64 << 20  # read at a time from a leaf that is stored in files


def fingerprint(params: Any, dtype: DTypeLike = jnp.float32) -> str:
    """32 hexadecimal digits of the names, shapes and float32 bits of all arrays. Does not depend on the mesh.

    params: arrays, or leaves that read their parts from files, like `FileArray`. dtype: values are rounded to it first.
    The same values in other shards, in bfloat16 or in a checkpoint have the same fingerprint. It is computed on the
    devices of the arrays, in integers, so the order of summation does not matter. It detects accidental differences
    (2 x 32 bits per array) and is not cryptographic.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    sums = gather_to_host([_sums_of(leaf, jnp.dtype(dtype)) for _, leaf in leaves])
    entries = sorted(
        (jax.tree_util.keystr(path), leaf.shape, words.tolist())
        for (path, leaf), words in zip(leaves, sums, strict=True)
    )
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:32]


def _sums_of(leaf: Any, dtype: np.dtype) -> UInt32[Array, "2"]:
    """`_sums` of a leaf; one that is stored in files is read in blocks of rows."""
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
    """Two hashes of (value, index) summed over all elements, modulo 2**32. first: index of the first element."""
    info = jnp.finfo(dtype)
    # Not a cast to `dtype` and back, which the compiler may remove.
    rounded = jax.lax.reduce_precision(leaf.astype(jnp.float32), info.nexp, info.nmant)
    bits = jax.lax.bitcast_convert_type(rounded, jnp.uint32).reshape(-1)
    indices = first + jax.lax.iota(jnp.uint32, bits.size)
    # The finalizer of MurmurHash3 (A. Appleby, 2011) with two seeds: each bit of value and index affects all bits.
    return jnp.stack(
        [
            jnp.sum(_mixed(bits ^ _mixed(indices + jnp.uint32(seed))), dtype=jnp.uint32)
            for seed in (0x9E3779B9, 0x85EBCA77)
        ]
    )


def _mixed(x: UInt32[Array, " N"]) -> UInt32[Array, " N"]:
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> jnp.uint32(shift))) * jnp.uint32(factor)
    return x ^ (x >> jnp.uint32(16))

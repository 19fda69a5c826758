"""A short name for the values of a parameter tree, to tell whether two runs begin with the same weights."""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

from jaxrl.learning.processes import fetch


def fingerprint(params: Any) -> str:
    """32 hexadecimal digits of the names, shapes and float32 bits of all arrays; the same on any mesh.

    Computed where the arrays lie, each read once, and in whole numbers, so that no order of summing matters. No file is
    looked at: the same numbers in other shards, in bfloat16 or in a checkpoint are the same weights. It tells weights
    apart that differ by accident (2 x 32 bits an array), not those that somebody made to look alike.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    sums = fetch([_sums(leaf) for _, leaf in leaves])
    told = sorted((jax.tree_util.keystr(path), leaf.shape, found.tolist())
                  for (path, leaf), found in zip(leaves, sums, strict=True))
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]


@jax.jit
def _sums(leaf: Array) -> UInt32[Array, "2"]:
    """Sums over all elements of two mixtures of value and place, modulo 2**32."""
    bits = jax.lax.bitcast_convert_type(leaf.astype(jnp.float32), jnp.uint32).reshape(-1)
    places = jax.lax.iota(jnp.uint32, bits.size)
    # MurmurHash3's last steps (A. Appleby, 2011), from two starts: every bit of value and place reaches all bits.
    return jnp.stack([jnp.sum(_mixed(bits ^ _mixed(places + jnp.uint32(start))), dtype=jnp.uint32)
                      for start in (0x9E3779B9, 0x85EBCA77)])


def _mixed(x: UInt32[Array, " N"]) -> UInt32[Array, " N"]:
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> jnp.uint32(shift))) * jnp.uint32(factor)
    return x ^ (x >> jnp.uint32(16))

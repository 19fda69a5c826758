"""LoRA: low-rank adapters of linear layers, joined with or merged into their base (Hu et al., arXiv 2106.09685)."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

A, B = "_lora_A", "_lora_B"
"""Suffixes of the two matrices of an adapter: `query/kernel` [in, out] has `query_lora_A/kernel` [in, rank] and
`query_lora_B/kernel` [rank, out]."""


@dataclasses.dataclass(frozen=True)
class LoRASpec:
    """x W becomes x W + (alpha / rank) x A B. Equation 3 of the paper has W and BA at the left of x instead."""

    rank: int
    alpha: float

    def __post_init__(self):
        if not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"lora.rank: expected a whole number of 0 (off) or more, got {self.rank!r}.")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"lora.alpha: expected above 0, got {self.alpha!r}; rank or twice the rank is common.")

    @property
    def scale(self) -> float:
        """The factor of A B."""
        return self.alpha / self.rank


def split(params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a tree into base and adapters. Exact inverse of `join`."""
    parts: tuple[dict, dict] = ({}, {})
    for path, leaf in flatten_dict(params).items():
        parts[path[-2].endswith((A, B))][path] = leaf
    return unflatten_dict(parts[0]), unflatten_dict(parts[1])


def join(base: Mapping[str, Any], adapters: Mapping[str, Any]) -> dict[str, Any]:
    """One tree of base and adapters, for a model with adapters. No array is copied."""
    return unflatten_dict(flatten_dict(base) | flatten_dict(adapters))


def pairs(adapters: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Path of the adapted kernel, A and B, for each adapter."""
    leaves = flatten_dict(adapters)
    for path, down in leaves.items():
        *above, name, kernel = path
        if name.endswith(A):
            name = name.removesuffix(A)
            yield (*above, name, kernel), down, leaves[(*above, name + B, kernel)]


def merge(base: Mapping[str, Any], adapters: Mapping[str, Any], spec: LoRASpec) -> dict[str, Any]:
    """Parameters of a model without adapters: W + scale A B, computed in float32 and stored in W's dtype.

    Layer by layer, so that only one product is in memory at a time.
    """

    def merge_layer(layer):
        kernel, down, up = layer
        change = jnp.matmul(down, up, precision=jax.lax.Precision.HIGHEST)
        return (kernel.astype(jnp.float32) + spec.scale * change).astype(kernel.dtype)

    leaves = flatten_dict(base)
    for path, down, up in pairs(adapters):
        leaves[path] = jax.lax.map(merge_layer, (leaves[path], down, up))
    return unflatten_dict(leaves)


@dataclasses.dataclass(frozen=True)
class MergedArray:
    """A leaf of the merged parameters that is not in memory: `leaf[i]` and `leaf[i:j]` are computed on access.

    kernel, down, up: W, A and B of all layers, as arrays or as leaves that read them from files.
    """

    kernel: Any
    down: Any
    up: Any
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.kernel.shape

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __getitem__(self, index: int | slice) -> np.ndarray:
        kernel, down, up = (np.asarray(part[index], np.float32) for part in (self.kernel, self.down, self.up))
        return kernel + np.float32(self.scale) * (down @ up)


def merge_lazily(base: Mapping[str, Any], adapters: Mapping[str, Any], spec: LoRASpec) -> dict[str, Any]:
    """`merge` in float32, with a `MergedArray` at each adapted kernel."""
    merged = {path: MergedArray(flatten_dict(base)[path], down, up, spec.scale) for path, down, up in pairs(adapters)}
    return unflatten_dict(flatten_dict(base) | merged)

"""Bytes per device: exact for persistent arrays, from shapes and shardings; estimated for temporaries of programs.

The estimates add up the few largest arrays that are alive at the same time. docs/memory.md compares them with XLA's GPU
compiler, and tests/gpu_compile.py checks them against it.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from jaxrl.learning.mesh import row_shards
from models.attention import block_width
from models.config import Qwen2Config
from models.qwen2 import Qwen2

FLOAT = 4  # bytes of float32: masters, gradients, logits, attention's scores


class Phase(NamedTuple):
    """A phase of a step, with the bytes on one device by name; `temporaries` are those of the programs."""

    name: str
    parts: Mapping[str, int]

    @property
    def bytes(self) -> int:
        """The sum of all parts."""
        return sum(self.parts.values())


def device_bytes(tree: Any) -> int:
    """Bytes per device of a tree of shapes with shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def finish_temporaries(params: Any, kind: str) -> int:
    """Temporaries of a step of the optimizer `kind` (see `OptimizerSpec`) on these parameters (shapes with shardings).

    AdamW allocates one new array of the size of the largest leaf; Adafactor and SGD none. Muon orthogonalizes the
    matrices of all layers at once: about 1.4 times the largest unsharded array, and 7 times its shard.
    """
    if kind in ("adafactor", "sgd"):
        return 0
    if kind == "muon":
        largest = max(jax.tree.leaves(params["layers"]), key=lambda leaf: leaf.size)
        return round(1.4 * largest.size * FLOAT + 7 * device_bytes(largest))
    return max(device_bytes(leaf) for leaf in jax.tree.leaves(params))


def learning_temporaries(
    model: Qwen2, mesh: Mesh | AbstractMesh, rows: int, length: int, head_tokens: int, gradients: int
) -> int:
    """Temporaries of the gradient of a micro-batch [rows, length] over all devices.

    The residuals of the backward pass, and the larger of two peaks: a token chunk of the head with its logits, or the
    layers, with the new gradients beside the accumulated ones. gradients: their bytes per device.
    """
    c, sizes = model.config, _sizes(model, mesh, rows, length, head_tokens)
    layers, tokens = c.num_hidden_layers, sizes.tokens
    if model.remat in ("full", "dots"):
        residuals = layers * tokens * c.hidden_size * sizes.width
        if model.remat == "dots":  # outputs of the projections, also of adapters, except for the down projection
            sharded = (c.num_attention_heads + 2 * c.num_key_value_heads) * c.head_dim + 2 * c.intermediate_size
            outputs = sharded // mesh.shape["tensor"] + c.hidden_size
            residuals += layers * tokens * (2 if model.lora else 1) * outputs * sizes.width
    else:
        wide = c.intermediate_size // mesh.shape["tensor"] + c.hidden_size
        residuals = layers * (8 * tokens * wide * sizes.width + sizes.scores)
    # Gradient of the embedding table or the head before it is scattered over fsdp; none if they are frozen.
    unsharded = 0 if model.lora else c.vocab_size // mesh.shape["tensor"] * c.hidden_size * FLOAT
    head = 2 * sizes.logits + sizes.kernel + (unsharded if mesh.shape["fsdp"] > 1 else 0)
    return residuals + max(head, gradients + 2 * unsharded + 6 * sizes.wide + sizes.scores + sizes.block)


def forward_temporaries(model: Qwen2, mesh: Mesh | AbstractMesh, rows: int, length: int, head_tokens: int) -> int:
    """Temporaries of the log-probabilities of a micro-batch [rows, length] over all devices, forward pass only."""
    sizes = _sizes(model, mesh, rows, length, head_tokens)
    return max(sizes.logits + sizes.kernel, 3 * sizes.wide + sizes.block)


def sync_temporaries(weights: Any, mesh: Mesh | AbstractMesh, dtype: Any) -> int:
    """Temporaries of converting the learner's weights (shapes with shardings) to decode weights: a shard in `dtype`."""
    sizes = [device_bytes(leaf) // leaf.dtype.itemsize for leaf in jax.tree.leaves(weights)]
    return sum(sizes) * jnp.dtype(dtype).itemsize if mesh.shape["fsdp"] > 1 else 0


def merge_temporaries(base: Any) -> int:
    """Temporaries of merging adapters into a frozen base (shapes with shardings): one product in float32 of the size of
    the largest kernel of a layer, or less if the compiler fuses the addition."""
    sizes = [device_bytes(leaf) // leaf.dtype.itemsize // leaf.shape[0] for leaf in jax.tree.leaves(base["layers"])]
    return max(sizes) * FLOAT


def prefill_temporaries(config: Qwen2Config, rows: int, length: int, dtype: Any, tensor: int) -> int:
    """Temporaries of a prefill of prompts [rows, length]. tensor: size of the tensor-parallel axis."""
    tokens, width = rows * length, jnp.dtype(dtype).itemsize
    scores = rows * config.num_attention_heads * length**2 * (FLOAT + width)
    return max(3 * tokens * config.intermediate_size * width, scores) // tensor


def decode_temporaries(config: Qwen2Config, rows: int, tensor: int) -> int:
    """Temporaries of sampling one token for each row: logits, weights and random numbers."""
    return 13 * rows * config.vocab_size * FLOAT // (4 * tensor)


class _Sizes(NamedTuple):
    """Tokens per device, and bytes per device of the largest arrays."""

    tokens: int
    width: int  # of one element of an activation
    wide: int  # an activation of the mlp's width
    scores: int  # attention weights of one layer after the softmax, kept for the gradient
    block: int  # the largest block of attention scores, before and after the softmax; only one is alive at a time
    logits: int  # of one token chunk of the head
    kernel: int  # of the head


def _sizes(model: Qwen2, mesh: Mesh | AbstractMesh, rows: int, length: int, head_tokens: int) -> _Sizes:
    c, tensor, shards = model.config, mesh.shape["tensor"], row_shards(mesh)
    width = jnp.dtype(model.dtype).itemsize
    tokens = rows * length // shards
    chunks = max(1, math.ceil(rows * length / head_tokens))
    vocabulary = c.vocab_size // tensor
    block = block_width(length)
    query = 0 if model.attention != "plain" else rows // shards * c.num_attention_heads // tensor
    pairs = sum(min(block, length - start) * min(start + block, length) for start in range(0, length, block))
    return _Sizes(
        tokens,
        width,
        tokens * c.intermediate_size // tensor * width,
        query * pairs * width,
        query * min(block, length) * length * (FLOAT + width),
        tokens // chunks * vocabulary * FLOAT,
        vocabulary * c.hidden_size * width,
    )

"""Bytes on one device: exact for what is held, by shapes and shardings; estimated for what programs need besides.

The estimates count the few largest arrays that are alive at once. How far they are from XLA's compiler for GPUs is in
docs/memory.md, and tests/gpu_compile.py holds them to it.
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
    """A part of a step and what one device holds in it, in bytes by name; `temporaries` are the programs' own."""

    name: str
    parts: Mapping[str, int]

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(self.parts.values())

    @property
    def held(self) -> int:
        """Without temporaries: what is known exactly."""
        return self.bytes - self.parts["temporaries"]


def device_bytes(tree: Any) -> int:
    """Bytes on one device of arrays given as shapes with shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def finish_temporaries(params: Any, kind: str) -> int:
    """Of a step of the optimizer `kind` (see `OptimizerSpec`) on these parameters (shapes with shardings).

    AdamW holds one new array beside the old ones, of the largest leaf; Adafactor and SGD none. Muon makes the layers'
    matrices orthogonal all at once: about 1.4 of the largest whole, and 7 of its shards.
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
    """Of the gradient of a micro-batch [rows, length] over all devices; gradients: their bytes on one device.

    What is kept for the backward pass, and the larger of two moments: the head's pieces with their logits, or the
    layers, when the gradients fill up beside those that are summed.
    """
    c, sizes = model.config, _sizes(model, mesh, rows, length, head_tokens)
    layers, tokens = c.num_hidden_layers, sizes.tokens
    if model.remat in ("full", "dots"):
        kept = layers * tokens * c.hidden_size * sizes.width
        if model.remat == "dots":  # what projections give, of adapters' too; nobody asks again for what "down" gives
            split = (c.num_attention_heads + 2 * c.num_key_value_heads) * c.head_dim + 2 * c.intermediate_size
            given = split // mesh.shape["tensor"] + c.hidden_size
            kept += layers * tokens * (2 if model.lora else 1) * given * sizes.width
    else:
        wide = c.intermediate_size // mesh.shape["tensor"] + c.hidden_size
        kept = layers * (8 * tokens * wide * sizes.width + sizes.scores)
    # Gradient of the table or of the head, before it is split over fsdp; frozen ones have none.
    whole = 0 if model.lora else c.vocab_size // mesh.shape["tensor"] * c.hidden_size * FLOAT
    head = 2 * sizes.logits + sizes.kernel + (whole if mesh.shape["fsdp"] > 1 else 0)
    return kept + max(head, gradients + 2 * whole + 6 * sizes.wide + sizes.scores + sizes.block)


def forward_temporaries(model: Qwen2, mesh: Mesh | AbstractMesh, rows: int, length: int, head_tokens: int) -> int:
    """Of log-probabilities of a micro-batch [rows, length] over all devices, nothing kept for a backward pass."""
    sizes = _sizes(model, mesh, rows, length, head_tokens)
    return max(sizes.logits + sizes.kernel, 3 * sizes.wide + sizes.block)


def sync_temporaries(weights: Any, mesh: Mesh | AbstractMesh, dtype: Any) -> int:
    """Of turning the learner's weights (shapes with shardings) into decode weights: a part of them in `dtype`."""
    each = [device_bytes(leaf) // leaf.dtype.itemsize for leaf in jax.tree.leaves(weights)]
    return sum(each) * jnp.dtype(dtype).itemsize if mesh.shape["fsdp"] > 1 else 0


def merge_temporaries(base: Any) -> int:
    """Of adding adapters to a frozen base (shapes with shardings): one product in float32, as large as one layer's
    largest kernel. Where the compiler adds it while it multiplies, not even that."""
    return (
        max(device_bytes(leaf) // leaf.dtype.itemsize // leaf.shape[0] for leaf in jax.tree.leaves(base["layers"]))
        * FLOAT
    )


def prefill_temporaries(config: Qwen2Config, rows: int, length: int, dtype: Any, split: int) -> int:
    """Of prompts [rows, length] on one device, or on `split` devices together."""
    tokens, width = rows * length, jnp.dtype(dtype).itemsize
    scores = rows * config.num_attention_heads * length**2 * (FLOAT + width)
    return max(3 * tokens * config.intermediate_size * width, scores) // split


def decode_temporaries(config: Qwen2Config, rows: int, split: int) -> int:
    """Of drawing a token for each of `rows` rows: logits, weights, random numbers."""
    return 13 * rows * config.vocab_size * FLOAT // (4 * split)


class _Sizes(NamedTuple):
    tokens: int  # of a device; the others are bytes on it
    width: int  # of a product's element
    wide: int  # an array as wide as the mlp
    scores: int  # of attention in one layer, behind the softmax, as its gradient keeps them
    block: int  # the largest block of them, before and after the softmax: they live one after another
    logits: int  # of one piece of the head
    kernel: int  # the head's


def _sizes(model: Qwen2, mesh: Mesh | AbstractMesh, rows: int, length: int, head_tokens: int) -> _Sizes:
    c, tensor, shards = model.config, mesh.shape["tensor"], row_shards(mesh)
    width = jnp.dtype(model.dtype).itemsize
    tokens = rows * length // shards
    pieces = max(1, math.ceil(rows * length / head_tokens))
    vocabulary = c.vocab_size // tensor
    block = block_width(length)
    query = 0 if model.attention != "plain" else rows // shards * c.num_attention_heads // tensor
    seen = sum(min(block, length - start) * min(start + block, length) for start in range(0, length, block))
    return _Sizes(
        tokens,
        width,
        tokens * c.intermediate_size // tensor * width,
        query * seen * width,
        query * min(block, length) * length * (FLOAT + width),
        tokens // pieces * vocabulary * FLOAT,
        vocabulary * c.hidden_size * width,
    )

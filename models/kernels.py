"""The operations of a model whose best form depends on the backend.

`Kernels` is plain XLA, for any backend; `models.cpu` overrides what XLA's CPU backend needs. The model, the loss and
the sampler call these methods and never branch on the platform; `models.backends` makes the choice.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from models.cache import BLOCK, CacheLayout
from models.params import Params

PROJECTION = "projection"
"""Name of a linear layer's output for remat policies (`jax.ad_checkpoint.checkpoint_name`). Kernels with a custom
gradient need it, because policies do not see the product inside."""

Linear = Callable[[jax.Array], jax.Array]


def kernel_init(axes: tuple[str, str]) -> nn.initializers.Initializer:
    """Initializer of a linear layer's matrix, with logical axis names."""
    return nn.with_logical_partitioning(nn.initializers.normal(0.02), axes)


def rms_norm(x: Float[Array, "B ... D"], scale: Float[Array, " D"], eps: float) -> Float[Array, "B ... D"]:
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, in float32 (Zhang and Sennrich 2019, equation 4)."""
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    scale = jax.lax.broadcast_in_dim(scale, x.shape, (x.ndim - 1,))
    return wide.astype(x.dtype) * scale.astype(x.dtype)


@jax.checkpoint
def swiglu(gate: Float[Array, "... F"], up: Float[Array, "... F"]) -> Float[Array, "... F"]:
    """silu(gate) * up. Only the two inputs are kept for the gradient: 10 % less memory, and fewer passes over it."""
    return nn.silu(gate) * up


@dataclasses.dataclass(frozen=True)
class Kernels:
    """Plain XLA operations, and the defaults of a sampler on an accelerator. Immutable and hashable."""

    cache: ClassVar[CacheLayout] = CacheLayout()  # layout of the key-value cache, with its attention
    decode_rows: ClassVar[int] = 128  # default slots of a decode batch on one device
    decode_chunk: ClassVar[int] = 64  # default decode steps before the host reads tokens back

    def for_length(self, length: int) -> "Kernels":
        """The kernels for inputs of `length` positions per row; 1 is a decode step."""
        del length
        return self

    def dense(self, features: int, axes: tuple[str, str], *, frozen: bool, **options: Any) -> nn.Module:
        """A linear layer. axes: logical names of (in, out). frozen: its matrix gets no gradient. options: of Dense."""
        del frozen
        return nn.Dense(features, kernel_init=kernel_init(axes), **options)

    def rms_norm(self, x: Float[Array, "B ... D"], scale: Float[Array, " D"], eps: float) -> Float[Array, "B ... D"]:
        """The function `rms_norm` of this module, or a form of it that is better for the backend."""
        return rms_norm(x, scale, eps)

    def gated_mlp(self, x: Float[Array, "B T D"], gate: Linear, up: Linear, down: Linear) -> Float[Array, "B T D"]:
        """down(silu(gate(x)) * up(x))."""
        return down(swiglu(gate(x), up(x)))

    def logits(self, hidden: Float[Array, "... D"], kernel: Float[Array, "V D"]) -> Float[Array, "... V"]:
        """hidden @ kernel.T, accumulated in float32."""
        contract = (((hidden.ndim - 1,), (1,)), ((), ()))
        return jax.lax.dot_general(hidden, kernel, contract, preferred_element_type=jnp.float32)

    def store_params(self, params: Params) -> Params:
        """Parameters with matrices [in, out] in the layout that `dense` stores them in."""
        return params

    def store_spec(self, path: tuple[Any, ...], spec: PartitionSpec) -> PartitionSpec:
        """The partition of a stored leaf whose plain form is partitioned by `spec`."""
        del path
        return spec

    def shortest_cache(self, rows: int, heads: int) -> int:
        """Positions of the shortest cache that batches of `rows` rows should have; heads: query heads."""
        del rows, heads
        return 2 * BLOCK

    def can_shrink_to(self, rows: int, width: int) -> bool:
        """Whether a decode batch may shrink to `rows` rows.

        width: elements per row of the smallest array of a decode step that depends on the vocabulary or the cache.
        """
        del width
        return rows >= 16  # fewer would save little

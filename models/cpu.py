"""Kernels for XLA's CPU backend: fast gradients for training; fast products and exact batch independence for decoding.

Decoding is exact in float32: a row's numbers do not depend, bit for bit, on the other rows of its batch, their number
or the length of the cache. Measured with jax 0.10.2.
"""

import dataclasses
import functools
import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from models.attention import MASKED
from models.cache import BLOCK, CacheLayout, Layer
from models.kernels import PROJECTION, Kernels, Linear, kernel_init, rms_norm, swiglu
from models.params import Params

# The compiler emits other instructions for arrays of fewer elements: exp and sums differ in the last bit.
SMALLEST_ARRAY = 4096
# Rows per product of a decode step; fewer rows are padded, so numbers do not depend on the size of the batch.
ROW_UNIT = 32
# The smallest batch whose numbers are tested to be those of larger ones.
FEWEST_ROWS = 8


@dataclasses.dataclass(frozen=True)
class BlockedCache(CacheLayout):
    """Keys [B, K, J, H, W] and values [B, K, J, W, H] in J blocks of W = 64 positions.

    Keys are transposed inside a block, so both products of a decode step read memory in order (2x). Every product has
    the shape of one block, so a longer cache adds blocks and changes no number.
    """

    block: ClassVar[int] = BLOCK

    def write_prefix(self, layer: Layer, key: Float[Array, "B T K H"], value: Float[Array, "B T K H"]) -> Layer:
        """Write positions 0 .. T-1 of every row; the remaining positions of the last block become zero."""
        keys, values = layer
        batch, length, heads, size = key.shape
        blocks = -(-length // BLOCK)

        def split(new: Float[Array, "B T K H"]) -> Float[Array, "B K J W H"]:
            new = jnp.pad(new.swapaxes(1, 2), ((0, 0), (0, 0), (0, blocks * BLOCK - length), (0, 0)))
            return new.reshape(batch, heads, blocks, BLOCK, size)

        origin = (0, 0, 0, 0, 0)
        keys = jax.lax.dynamic_update_slice(keys, split(key).swapaxes(3, 4).astype(keys.dtype), origin)
        return keys, jax.lax.dynamic_update_slice(values, split(value).astype(values.dtype), origin)

    def write_token(
        self, layer: Layer, key: Float[Array, "B 1 K H"], value: Float[Array, "B 1 K H"], position: Int[Array, " B"]
    ) -> Layer:
        keys, values = layer
        rows, block, offset = jnp.arange(keys.shape[0]), position // BLOCK, position % BLOCK
        keys = keys.at[rows, :, block, :, offset].set(key[:, 0].astype(keys.dtype), mode="drop", unique_indices=True)
        value = value[:, 0].astype(values.dtype)
        return keys, values.at[rows, :, block, offset].set(value, mode="drop", unique_indices=True)

    def attend(
        self, query: Float[Array, "B 1 N H"], layer: Layer, position: Int[Array, " B"]
    ) -> Float[Array, "B 1 N H"]:
        """Each product covers one block, and the blocks are summed in order; blocks beyond `position` add exact zeros.

        So the result is the same, bit for bit, for any number of blocks that holds the row.
        """
        keys, values = layer
        batch, groups, blocks, size, width = keys.shape
        heads = query.shape[2]
        rows = query[:, 0].reshape(batch, groups, 1, heads // groups, size)
        rows = jnp.broadcast_to(rows, (batch, groups, blocks, heads // groups, size))
        scores = jnp.matmul(rows, keys, preferred_element_type=jnp.float32) * size**-0.5
        visible = jnp.arange(blocks * width).reshape(1, blocks, width) <= position[:, None, None]
        scores = jnp.where(visible[:, None, :, None], scores, MASKED)
        weights = jnp.exp(scores - jnp.max(scores, axis=(2, 4), keepdims=True))
        mixed = jnp.matmul(weights.astype(values.dtype), values, preferred_element_type=jnp.float32)
        total = jnp.sum(jnp.sum(weights, axis=2), axis=-1)
        mixed = jnp.sum(mixed, axis=2) / total[..., None]
        return mixed.astype(query.dtype).reshape(batch, 1, heads, size)

    def _shapes(self, rows: int, heads: int, positions: int, size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        blocks = (rows, heads, positions // BLOCK)
        return (*blocks, size, BLOCK), (*blocks, BLOCK, size)

    def _zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        """Zeros behind a barrier. Without it the compiler pads instead of concatenating, element by element."""
        return jax.lax.optimization_barrier(super()._zeros(shape, dtype))


@dataclasses.dataclass(frozen=True)
class TrainingKernels(Kernels):
    """Linear layers and head with a faster gradient, and an MLP over [B * T, D]."""

    def dense(self, features: int, axes: tuple[str, str], *, frozen: bool, **options: Any) -> nn.Module:
        if frozen:
            return super().dense(features, axes, frozen=frozen, **options)
        return nn.Dense(features, kernel_init=kernel_init(axes), dot_general=dot_dense, **options)

    def gated_mlp(self, x: Float[Array, "B T D"], gate: Linear, up: Linear, down: Linear) -> Float[Array, "B T D"]:
        rows = x.reshape(-1, x.shape[-1])  # the gradient of silu between products is 4 times slower on [B, T, F]
        return down(swiglu(gate(rows), up(rows))).reshape(x.shape)

    def logits(self, hidden: Float[Array, "... D"], kernel: Float[Array, "V D"]) -> Float[Array, "... V"]:
        return multiply(hidden, kernel, 1, jnp.float32)


@dataclasses.dataclass(frozen=True)
class DecodeKernels(Kernels):
    """Matrices stored as [out, in] and products of `row_unit` rows (0: all at once, as in a prefill)."""

    cache: ClassVar[CacheLayout] = BlockedCache()
    decode_rows: ClassVar[int] = ROW_UNIT
    decode_chunk: ClassVar[int] = 8
    row_unit: int = ROW_UNIT

    def for_length(self, length: int) -> "DecodeKernels":
        return self if length == 1 else dataclasses.replace(self, row_unit=0)

    def dense(self, features: int, axes: tuple[str, str], *, frozen: bool, **options: Any) -> nn.Module:
        return TransposedDense(features, unit=self.row_unit, kernel_init=kernel_init(axes[::-1]), **options)

    def rms_norm(self, x: Float[Array, "B ... D"], scale: Float[Array, " D"], eps: float) -> Float[Array, "B ... D"]:
        """`models.kernels.rms_norm`. Small arrays are padded, because the compiler sums them in another order."""
        rows = x.shape[0]
        padded = max(self.row_unit, -(-SMALLEST_ARRAY // math.prod(x.shape[1:]))) if self.row_unit else 0
        if rows >= padded:
            return rms_norm(x, scale, eps)
        padding = ((0, padded - rows), *((0, 0),) * (x.ndim - 1))
        x = jax.lax.optimization_barrier(jnp.pad(x, padding))  # without barriers the compiler removes the padding
        return jax.lax.optimization_barrier(rms_norm(x, scale, eps))[:rows]

    def gated_mlp(self, x: Float[Array, "B T D"], gate: Linear, up: Linear, down: Linear) -> Float[Array, "B T D"]:
        rows = x.reshape(-1, x.shape[-1])
        gated, linear = gate(rows), up(rows)
        # `dot_by_rows` has rows as columns inside, so these transposes and its own cancel.
        mixed = swiglu(gated.T, linear.T).T if self.row_unit else swiglu(gated, linear)
        return down(mixed).reshape(x.shape)

    def logits(self, hidden: Float[Array, "B D"], kernel: Float[Array, "V D"]) -> Float[Array, "B V"]:
        logits = dot_by_rows(self.row_unit, hidden, kernel, preferred_element_type=jnp.float32)
        return with_layout_constraint(logits, Layout((0, 1)))  # transposed once, not at each of its uses

    def store_params(self, params: Params) -> Params:
        return jax.tree.map_with_path(lambda path, x: x.T if _is_kernel(path) else x, params)

    def store_spec(self, path: tuple[Any, ...], spec: PartitionSpec) -> PartitionSpec:
        return PartitionSpec(*(*spec, None)[1::-1]) if spec and _is_kernel(path) else spec

    def shortest_cache(self, rows: int, heads: int) -> int:
        """At least two blocks; the attention scores [rows, heads, positions] have at least SMALLEST_ARRAY elements."""
        return max(2 * BLOCK, SMALLEST_ARRAY // (rows * heads))

    def can_shrink_to(self, rows: int, width: int) -> bool:
        """True only for batches that give the same numbers as larger ones, bit for bit."""
        return rows % FEWEST_ROWS == 0 and rows * width >= SMALLEST_ARRAY


class TransposedDense(nn.Module):
    """nn.Dense with its kernel stored as [out, in]. unit: see `dot_by_rows`; 0: all rows in one product."""

    features: int
    use_bias: bool
    dtype: DTypeLike
    param_dtype: DTypeLike
    unit: int
    kernel_init: Any
    bias_init: Any

    @nn.compact
    def __call__(self, x: Float[Array, "... K"]) -> Float[Array, "... N"]:
        kernel = self.param("kernel", self.kernel_init, (self.features, x.shape[-1]), self.param_dtype)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.unit:
            y = dot_by_rows(self.unit, x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], self.features)
        else:
            y = jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (1,)), ((), ())))
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype).astype(self.dtype)
            y = y + bias.reshape((1,) * (y.ndim - 1) + bias.shape)
        return y


def dot_by_rows(unit: int, x: Float[Array, "B K"], kernel: Float[Array, "N K"], **options: Any) -> Float[Array, "B N"]:
    """x @ kernel.T, `unit` rows at a time. options: of `jax.lax.dot_general`.

    All products have one shape (fewer rows are padded), so each row is summed in the same order for any number of
    rows; the kernels for other numbers of rows may sum in another order. Rows are passed as columns and the weights as
    the first operand, because the second is repacked, which for the weights takes as long as a product of 32 rows.
    Layouts are pinned, because otherwise the compiler moves the transposes into the products.
    """
    rows, row_major = x.shape[0], Layout((0, 1))
    columns = with_layout_constraint(jnp.pad(x, ((0, -rows % unit), (0, 0))).T, row_major)
    parts = [
        jax.lax.dot_general(kernel, columns[:, start : start + unit], (((1,), (0,)), ((), ())), **options)
        for start in range(0, rows, unit)
    ]
    return jnp.concatenate([with_layout_constraint(part, row_major) for part in parts], axis=1).T[:rows]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def multiply(
    x: Float[Array, "... K"], kernel: Float[Array, "A B"], axis: int = 0, wide: DTypeLike | None = None
) -> Float[Array, "... N"]:
    """x times a kernel, with a faster gradient of the kernel.

    axis: the kernel's contracted axis, 0 for a dense layer's [K, N], 1 for a head's [N, K].
    wide: accumulation and result type (None: that of the operands).

    The gradient of the kernel, x.T @ dy, contracts the rows of x. XLA's CPU compiler runs such products at half the
    speed of those that contract columns, and it merges a plain transpose of x back into the product. So the narrower of
    x and dy is transposed first, behind a barrier.
    """
    return jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (axis,)), ((), ())), preferred_element_type=wide)


def _multiply_forward(x, kernel, axis, wide):
    return multiply(x, kernel, axis, wide), (x, kernel)


def _multiply_backward(axis, wide, saved, dy):
    x, kernel = saved
    contract = (((dy.ndim - 1,), (1 - axis,)), ((), ()))
    dx = jax.lax.dot_general(dy, kernel, contract, preferred_element_type=wide).astype(x.dtype)
    return dx, _kernel_gradient(x, dy, axis, wide).astype(kernel.dtype)


def _kernel_gradient(x, dy, axis, wide):
    x, dy = (part.reshape(-1, part.shape[-1]) for part in (x, dy))
    narrow = x.shape[1] <= dy.shape[1]
    left, right = (x, dy) if narrow else (dy, x)
    product = jnp.matmul(jax.lax.optimization_barrier(left.T), right, preferred_element_type=wide)  # [K, N] if narrow
    return jax.lax.optimization_barrier(product).T if narrow == bool(axis) else product


multiply.defvjp(_multiply_forward, _multiply_backward)


def dot_dense(x: jax.Array, kernel: jax.Array, dimensions: Any, precision: Any = None) -> jax.Array:
    """`multiply` as the `dot_general` of nn.Dense, with the output named for remat policies."""
    del dimensions, precision  # nn.Dense contracts x's last axis with the kernel's first; no precision is set
    return checkpoint_name(multiply(x, kernel), PROJECTION)


def _is_kernel(path: tuple[Any, ...]) -> bool:
    """Whether a leaf of the parameters is the matrix of a linear layer."""
    return path[-1].key == "kernel"

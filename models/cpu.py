"""Matrix products in the forms that XLA's CPU kernels are fast at; on other platforms as XLA has them."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from models.params import Params

PROJECTION = "projection"
"""Name of what `dot_dense` gives, for remat policies: they don't see products inside functions with own gradients."""


def dot_by_rows(unit: int, x: Float[Array, "B K"], kernel: Float[Array, "N K"], **how: Any) -> Float[Array, "B N"]:
    """x kernel', `unit` rows at a time, on a CPU.

    All products have one shape, fewer rows are filled up, so a row's sums come in one order however many rows there
    are: XLA's CPU kernels for other numbers of rows may sum differently. And weights are read as they lie: the kernels
    repack their second operand, which takes as long as a product of 32 rows where that is the weights. So rows stand as
    columns here, and layouts are pinned: left alone, the compiler moves the transposes into the products again.
    """
    rows, straight = x.shape[0], Layout((0, 1))
    columns = with_layout_constraint(jnp.pad(x, ((0, -rows % unit), (0, 0))).T, straight)
    parts = [
        jax.lax.dot_general(kernel, columns[:, start : start + unit], (((1,), (0,)), ((), ())), **how)
        for start in range(0, rows, unit)
    ]
    return jnp.concatenate([with_layout_constraint(part, straight) for part in parts], axis=1).T[:rows]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def multiply(
    x: Float[Array, "... K"], kernel: Float[Array, "A B"], side: int = 0, wide: DTypeLike | None = None
) -> Float[Array, "... N"]:
    """x times a kernel, with a gradient that is fast on a CPU.

    side: axis of the kernel that is summed over, 0 for [K, N] as a dense layer has it, 1 for [N, K] as a head has it.
    wide: type of the sums and of the result (None: that of the two).

    The gradient of the kernel, x'dy, sums over the rows of its left side. XLA's CPU compiler leaves such products to
    kernels that run at half the rate of those for x dy (measured, jax 0.10.2), and takes a transpose in front of them
    into the product. So the narrower side is laid out as its transpose first, behind a barrier. Elsewhere it is the
    product that JAX makes.
    """
    return jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (side,)), ((), ())), preferred_element_type=wide)


def _multiply_forward(x, kernel, side, wide):
    return multiply(x, kernel, side, wide), (x, kernel)


def _multiply_backward(side, wide, saved, dy):
    x, kernel = saved
    over = (((dy.ndim - 1,), (1 - side,)), ((), ()))
    dx = jax.lax.dot_general(dy, kernel, over, preferred_element_type=wide).astype(x.dtype)
    cpu, default = (functools.partial(way, side=side, wide=wide) for way in (_kernel_gradient_cpu, _kernel_gradient))
    return dx, jax.lax.platform_dependent(x, dy, cpu=cpu, default=default).astype(kernel.dtype)


def _kernel_gradient(x, dy, side, wide):
    rows = tuple(range(x.ndim - 1))
    gradient = jax.lax.dot_general(dy, x, ((rows, rows), ((), ())), preferred_element_type=wide)
    return gradient if side else gradient.T


def _kernel_gradient_cpu(x, dy, side, wide):
    x, dy = (part.reshape(-1, part.shape[-1]) for part in (x, dy))
    narrow = x.shape[1] <= dy.shape[1]
    left, right = (x, dy) if narrow else (dy, x)
    product = jnp.matmul(jax.lax.optimization_barrier(left.T), right, preferred_element_type=wide)  # [K, N] if narrow
    return jax.lax.optimization_barrier(product).T if narrow == bool(side) else product


multiply.defvjp(_multiply_forward, _multiply_backward)


def dot_dense(x: jax.Array, kernel: jax.Array, dimensions: Any, precision: Any = None) -> jax.Array:
    """`multiply` as the `dot_general` of nn.Dense."""
    del dimensions, precision  # of a dense layer: x's last with kernel's first; none is asked for
    return checkpoint_name(multiply(x, kernel), PROJECTION)


# XLA's CPU compiler gives code for arrays of fewer elements other instructions (measured, jax 0.10.2: exp and sums
# differ in the last bit).
SMALLEST_ARRAY = 4096


class TransposedDense(nn.Module):
    """nn.Dense with its kernel as [out, in], to decode with on a CPU. unit: see `dot_by_rows`; 0: all rows at once."""

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


def transpose_kernels(params: Params) -> Params:
    """Parameters with kernels [out, in] for [in, out], or the other way round: what a model with a `row_unit` has."""
    return jax.tree.map_with_path(lambda path, x: x.T if is_kernel(path) else x, params)


def is_kernel(path: tuple[Any, ...]) -> bool:
    """Whether a leaf of the parameters is the matrix of a linear layer."""
    return path[-1].key == "kernel"

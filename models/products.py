"""Matrix products in the forms that XLA's CPU kernels are fast at; on other platforms as XLA has them."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

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
    parts = [jax.lax.dot_general(kernel, columns[:, start : start + unit], (((1,), (0,)), ((), ())), **how)
             for start in range(0, rows, unit)]
    return jnp.concatenate([with_layout_constraint(part, straight) for part in parts], axis=1).T[:rows]


@jax.custom_vjp
def multiply(x: Float[Array, "... K"], kernel: Float[Array, "K N"]) -> Float[Array, "... N"]:
    """x kernel, with a gradient that is fast on a CPU.

    The gradient of the kernel, x'dy, sums over the rows of its left side. XLA's CPU compiler leaves such products to
    kernels that run at half the rate of those for x dy (measured, jax 0.10.2), and takes a transpose in front of them
    into the product. So the narrower side is laid out as its transpose first, behind a barrier. Elsewhere it is the
    product that JAX makes.
    """
    return jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def _multiply_forward(x, kernel):
    return multiply(x, kernel), (x, kernel)


def _multiply_backward(saved, dy):
    x, kernel = saved
    dx = jax.lax.dot_general(dy, kernel, (((dy.ndim - 1,), (1,)), ((), ())))
    return dx, jax.lax.platform_dependent(x, dy, cpu=_kernel_gradient_cpu, default=_kernel_gradient)


def _kernel_gradient(x, dy):
    rows = tuple(range(x.ndim - 1))
    return jax.lax.dot_general(dy, x, ((rows, rows), ((), ()))).T


def _kernel_gradient_cpu(x, dy):
    x, dy = (side.reshape(-1, side.shape[-1]) for side in (x, dy))
    if x.shape[1] <= dy.shape[1]:
        return jnp.matmul(jax.lax.optimization_barrier(x.T), dy)
    return jax.lax.optimization_barrier(jnp.matmul(jax.lax.optimization_barrier(dy.T), x)).T


multiply.defvjp(_multiply_forward, _multiply_backward)


def dot_dense(x: jax.Array, kernel: jax.Array, dimensions: Any, precision: Any = None) -> jax.Array:
    """`multiply` as the `dot_general` of nn.Dense."""
    del dimensions, precision  # of a dense layer: x's last with kernel's first; none is asked for
    return checkpoint_name(multiply(x, kernel), PROJECTION)

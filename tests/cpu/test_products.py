"""The gradients of CPU kernels: the same numbers in a faster form, and plain products on GPUs."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.backends import training_kernels
from models.cpu import dot_dense, multiply


def plain(x, kernel, axis=0, wide=None):
    return jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (axis,)), ((), ())), preferred_element_type=wide)


DENSE, HEAD = {}, {"axis": 1, "wide": jnp.float32}  # a head has a kernel [out, in] and float32 logits


def gradients(product, form):
    def both(x, kernel, dy):
        y, back = jax.vjp(lambda *given: product(*given, **form), x, kernel)
        return y, *back(dy)

    return both


def operands(shape, width, form, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    kernel = jax.random.normal(keys[1], (shape[-1], width), dtype)
    dy = jax.random.normal(keys[2], (*shape[:-1], width), form.get("wide", dtype))
    return jax.random.normal(keys[0], shape, dtype), kernel.T if form.get("axis") else kernel, dy


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("shape", "width"), [((3, 5, 8), 16), ((3, 5, 16), 8), ((15, 8), 8), ((2, 7, 3, 4), 5)])
@pytest.mark.parametrize("form", [DENSE, HEAD], ids=["dense", "head"])
def test_gradients_equal_those_of_the_plain_product(form, shape, width, dtype):
    given = operands(shape, width, form, jnp.dtype(dtype))
    both = (jax.jit(gradients(product, form))(*given) for product in (multiply, plain))
    for ours, theirs in zip(*both, strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        scale = 1e-6 if dtype == "float32" else 1e-2
        np.testing.assert_allclose(np.float32(ours), np.float32(theirs), atol=scale * 8, rtol=scale)


@pytest.mark.slow
@pytest.mark.parametrize("width", [256, 1024])
def test_no_product_contracts_the_rows_of_its_left_operand(width):
    """The compiler runs such products in slower kernels; the plain product's gradient is one."""

    def over_rows(product):
        text = jax.jit(gradients(product, DENSE)).lower(*operands((4, 128, 512), width, DENSE)).compile().as_text()
        return len(re.findall(r"lhs_contracting_dims=\{0\}", text))

    assert over_rows(plain) == 1 and over_rows(multiply) == 0


@pytest.mark.slow
def test_the_gradient_of_the_head_transposes_hidden_states_instead_of_logits():
    """The hidden states are narrower; the gradient of the plain product transposes the logits."""

    def transposes_logits(product):
        text = jax.jit(gradients(product, HEAD)).lower(*operands((4, 96, 512), 1024, HEAD)).compile().as_text()
        return "f32[1024,384]" in text

    assert transposes_logits(plain) and not transposes_logits(multiply)


@pytest.mark.parametrize("form", [DENSE, HEAD], ids=["dense", "head"])
def test_kernels_for_gpus_have_the_gradient_of_the_plain_product(form):
    kernels = training_kernels("gpu")

    def dense(x, kernel):
        layer = kernels.dense(kernel.shape[1], ("embed", "mlp"), frozen=False, use_bias=False, dtype=x.dtype)
        return layer.apply({"params": {"kernel": kernel}}, x)

    def head(x, kernel, axis, wide):
        return kernels.logits(x, kernel)

    def operations(product):
        given = operands((4, 32, 64), 16, form, jnp.bfloat16)
        lowered = jax.jit(gradients(product, form)).trace(*given).lower(lowering_platforms=("cuda",))
        return sorted(
            re.findall(
                r"stablehlo\.(?:dot_general|transpose|reshape|optimization_barrier)[^\n]*?:.*",
                re.sub(r"%\w+", "", lowered.as_text()),
            )
        )

    assert operations(head if form else dense) == operations(plain) != []


def test_the_remat_policy_for_products_saves_the_output_of_a_dense_layer():
    """The policy does not see products inside a custom gradient, so the output has a checkpoint name."""
    from models.qwen2 import REMAT

    def count(policy):
        layer = jax.checkpoint(lambda x, kernel: jnp.sin(dot_dense(jnp.sin(x), kernel, None)), policy=REMAT[policy])
        x, kernel, dy = operands((4, 8), 16, DENSE)
        made = jax.make_jaxpr(lambda *given: jax.vjp(layer, x, kernel)[1](*given))(dy)
        return str(made).count("dot_general")

    assert count("dots") == count("none") == count("full") - 1

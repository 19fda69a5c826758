"""Products with a gradient of their own: the same numbers, in the form that a CPU is fast at, and only there."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.cpu import dot_dense, multiply


def plain(x, kernel, side=0, wide=None):
    return jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (side,)), ((), ())), preferred_element_type=wide)


DENSE, HEAD = {}, {"side": 1, "wide": jnp.float32}  # a head has a kernel [out, in], and logits as float32


def gradients(product, form):
    def both(x, kernel, dy):
        y, back = jax.vjp(lambda *given: product(*given, **form), x, kernel)
        return y, *back(dy)

    return both


def sides(shape, width, form, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    kernel = jax.random.normal(keys[1], (shape[-1], width), dtype)
    dy = jax.random.normal(keys[2], (*shape[:-1], width), form.get("wide", dtype))
    return jax.random.normal(keys[0], shape, dtype), kernel.T if form.get("side") else kernel, dy


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("shape", "width"), [((3, 5, 8), 16), ((3, 5, 16), 8), ((15, 8), 8), ((2, 7, 3, 4), 5)])
@pytest.mark.parametrize("form", [DENSE, HEAD], ids=["dense", "head"])
def test_the_gradients_are_those_of_the_plain_product(form, shape, width, dtype):
    given = sides(shape, width, form, jnp.dtype(dtype))
    both = (jax.jit(gradients(product, form))(*given) for product in (multiply, plain))
    for ours, theirs in zip(*both, strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        scale = 1e-6 if dtype == "float32" else 1e-2
        np.testing.assert_allclose(np.float32(ours), np.float32(theirs), atol=scale * 8, rtol=scale)


@pytest.mark.parametrize("width", [256, 1024])
def test_no_product_on_a_cpu_sums_over_the_rows_of_its_left_side(width):
    """Those the compiler leaves to slower kernels; the plain product's gradient is one."""

    def over_rows(product):
        text = jax.jit(gradients(product, DENSE)).lower(*sides((4, 128, 512), width, DENSE)).compile().as_text()
        return len(re.findall(r"lhs_contracting_dims=\{0\}", text))

    assert over_rows(plain) == 1 and over_rows(multiply) == 0


def test_a_heads_gradient_on_a_cpu_transposes_no_logits():
    """It turns the hidden states, which are narrower; that of the plain product turns the logits."""

    def turned(product):
        text = jax.jit(gradients(product, HEAD)).lower(*sides((4, 96, 512), 1024, HEAD)).compile().as_text()
        return "f32[1024,384]" in text

    assert turned(plain) and not turned(multiply)


@pytest.mark.parametrize("form", [DENSE, HEAD], ids=["dense", "head"])
def test_on_a_gpu_the_gradient_is_the_plain_products(form):
    def operations(product):
        given = sides((4, 32, 64), 16, form, jnp.bfloat16)
        lowered = jax.jit(gradients(product, form)).trace(*given).lower(lowering_platforms=("cuda",))
        return sorted(
            re.findall(
                r"stablehlo\.(?:dot_general|transpose|reshape|optimization_barrier)[^\n]*?:.*",
                re.sub(r"%\w+", "", lowered.as_text()),
            )
        )

    assert operations(multiply) == operations(plain) != []


def test_remat_by_products_keeps_what_a_dense_layer_gives():
    """A policy that looks for products sees none inside a function with a gradient of its own, so they have a name."""
    from models.qwen2 import REMAT

    def count(policy):
        layer = jax.checkpoint(lambda x, kernel: jnp.sin(dot_dense(jnp.sin(x), kernel, None)), policy=REMAT[policy])
        x, kernel, dy = sides((4, 8), 16, DENSE)
        made = jax.make_jaxpr(lambda *given: jax.vjp(layer, x, kernel)[1](*given))(dy)
        return str(made).count("dot_general")

    assert count("dots") == count("none") == count("full") - 1

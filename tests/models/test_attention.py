"""Attention in blocks of queries equals the textbook formula at about half of its operations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.attention import BLOCKS, QUERIES, attend
from models.backends import decode_kernels

LENGTHS = jnp.array([300, 170, 1])


@pytest.fixture(scope="module")
def arrays():
    """Query, key, value of three rows of 300 positions, and a weight for each output."""
    keys = jax.random.split(jax.random.key(0), 4)
    return [jax.random.normal(key, (3, 300, heads, 8)) for key, heads in zip(keys, (4, 2, 2, 4), strict=True)]


def textbook(query, key, value, lengths):
    """softmax(q k' / sqrt(H)) v (Vaswani et al. 2017, equation 1), in the dtype of the inputs."""
    scores = np.einsum("btkgh,bskh->bkgts", query.reshape(*query.shape[:2], 2, 2, 8), key) / np.sqrt(8)
    seen = (np.arange(300)[:, None] >= np.arange(300)) & (np.arange(300) < np.asarray(lengths)[:, None, None])
    weights = np.exp(np.where(seen[:, None, None], scores, -np.inf))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bkgts,bskh->btkgh", weights, value).reshape(query.shape)


def test_blocks_equal_the_textbook_formula(arrays):
    query, key, value, _ = arrays
    assert QUERIES < 300  # more than one block
    found = attend(query, key, value, LENGTHS, "plain")
    wanted = textbook(*(np.asarray(x, np.float64) for x in (query, key, value)), LENGTHS)
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(found[row, :length], wanted[row, :length], atol=2e-6)


def test_gradients_equal_those_of_a_single_product(arrays):
    """JAX's own attention multiplies all queries with all keys."""
    query, key, value, weight = arrays
    weight = jnp.where(jnp.arange(300)[None, :, None, None] < LENGTHS[:, None, None, None], weight, 0)

    def library(query, key, value):
        return jax.nn.dot_product_attention(query, key, value, is_causal=True, key_value_seq_lengths=LENGTHS)

    def gradients(function):
        return jax.grad(lambda *inputs: jnp.sum(function(*inputs) * weight), argnums=(0, 1, 2))(query, key, value)

    for ours, theirs in zip(gradients(lambda *x: attend(*x, LENGTHS, "plain")), gradients(library), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_scores_in_bfloat16_are_scaled_before_they_are_rounded(platform):
    """A query divided by sqrt(128) needs more digits than bfloat16 has (an error of 0.027 here)."""
    keys = jax.random.split(jax.random.key(0), 3)
    query, key, value = (jax.random.normal(key, (1, 64, 1, 128), jnp.bfloat16) for key in keys)
    query = 8 * query
    q, k, v = (np.asarray(x, np.float64)[0, :, 0] for x in (query, key, value))
    scores = np.where(np.tri(64, dtype=bool), q @ k.T / np.sqrt(128), -np.inf)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    wanted = weights / weights.sum(axis=1, keepdims=True) @ v
    found = attend(query, key, value, jnp.array([64]), "plain")[0, :, 0]
    np.testing.assert_allclose(np.float64(found), wanted, atol=0.015)
    layout, zeros = decode_kernels(platform).cache, jnp.zeros((1, 1, 64, 128), jnp.bfloat16)
    layer = (zeros, zeros) if platform == "gpu" else (zeros.reshape(1, 1, 1, 128, 64), zeros[:, :, None])
    layer = layout.write_prefix(layer, key, value)
    decoded = layout.attend(query[:, -1:], layer, jnp.array([63]))[0, 0, 0]
    np.testing.assert_allclose(np.float64(decoded), wanted[-1], atol=0.015)


def test_gradients_in_bfloat16_are_as_exact_for_the_first_keys_as_for_the_last():
    """The first keys sum the gradients of five blocks, in float32 (in bfloat16 the error would be 1.5 times larger)."""
    length = 5 * QUERIES
    keys = jax.random.split(jax.random.key(0), 4)
    arrays = [
        jax.random.normal(key, (1, length, heads, 128), jnp.bfloat16)
        for key, heads in zip(keys, (2, 1, 1, 2), strict=True)
    ]

    @jax.jit
    def gradients(query, key, value, given):
        function = functools.partial(attend, lengths=jnp.array([length]), implementation="plain")
        return jax.vjp(function, query, key, value)[1](given)[1:]

    for found, exact in zip(gradients(*arrays), gradients(*(x.astype(jnp.float32) for x in arrays)), strict=True):
        error = np.square(np.float64(found) - np.float64(exact)).reshape(5, -1).mean(axis=1)
        relative = np.sqrt(error / np.square(np.float64(exact)).reshape(5, -1).mean(axis=1))
        assert relative[0] < 1.1 * relative[-1]


@pytest.mark.parametrize(("length", "share"), [(QUERIES, 1.0), (8 * QUERIES, 0.57), (4 * BLOCKS * QUERIES, 0.54)])
def test_operations_are_about_half_of_a_full_product(length, share):
    """n blocks cost (n + 1) / 2n of a full product; there are at most BLOCKS."""
    shapes = [jax.ShapeDtypeStruct((1, length, heads, 64), jnp.float32) for heads in (2, 1, 1)]
    lengths = jax.ShapeDtypeStruct((1,), jnp.int32)
    lowered = jax.jit(lambda *x: attend(*x, "plain")).lower(*shapes, lengths)
    products = lowered.as_text().count("stablehlo.dot_general")
    assert products == 2 * min(-(-length // QUERIES), BLOCKS)
    assert lowered.cost_analysis()["flops"] < share * 1.1 * (4 * 2 * 64 * length**2)  # a tenth for the softmax

"""The head in chunks equals the head in one; results are shifted by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.algorithms.logp import token_logp

KEYS = jax.random.split(jax.random.key(0), 3)
HIDDEN = jax.random.normal(KEYS[0], (3, 7, 4))
KERNEL = jax.random.normal(KEYS[1], (11, 4))
TOKENS = jax.random.randint(KEYS[2], (3, 7), 0, 11)


def by_hand(temperature):
    logits = np.einsum("btd,vd->btv", np.asarray(HIDDEN, np.float64), np.asarray(KERNEL, np.float64)) / temperature
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    logp, entropy = np.zeros((3, 7)), np.zeros((3, 7))
    for b in range(3):
        for t in range(1, 7):
            logp[b, t] = np.log(p[b, t - 1, TOKENS[b, t]])
            entropy[b, t] = -(p[b, t - 1] * np.log(p[b, t - 1])).sum()
    return logp, entropy


@pytest.mark.parametrize("chunk_tokens", [1, 6, 9, 1000])
def test_values_by_hand_for_any_chunk_size(chunk_tokens):
    got = token_logp(HIDDEN, KERNEL, TOKENS, 0.7, chunk_tokens=chunk_tokens)
    for x, y in zip(got, by_hand(0.7), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_gradients_do_not_depend_on_chunks_and_entropy_has_one_only_on_request(entropy_gradient):
    def total(hidden, kernel, chunk_tokens, weight):
        logp, entropy = token_logp(
            hidden, kernel, TOKENS, 1.3, chunk_tokens=chunk_tokens, entropy_gradient=entropy_gradient
        )
        return jnp.sum(logp * logp) + weight * jnp.sum(entropy)

    grads = [jax.grad(total, (0, 1))(HIDDEN, KERNEL, size, 0.5) for size in (1000, 9)]
    for x, y in zip(*grads, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    without = jax.grad(total, (0, 1))(HIDDEN, KERNEL, 1000, 0.0)
    assert np.allclose(without[0], grads[0][0]) != entropy_gradient


def test_bfloat16_hidden_states_give_float32_sums():
    exact, _ = token_logp(
        HIDDEN.astype(jnp.bfloat16).astype(jnp.float32),
        KERNEL.astype(jnp.bfloat16).astype(jnp.float32),
        TOKENS,
    )
    half, _ = token_logp(HIDDEN.astype(jnp.bfloat16), KERNEL, TOKENS)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, exact, atol=1e-5)


def test_the_kernel_gradient_is_summed_over_chunks_in_float32():
    """In bfloat16, many chunks are as close to the exact gradient as one (summed in bfloat16: three times as far)."""
    keys = jax.random.split(jax.random.key(1), 3)
    hidden, kernel = jax.random.normal(keys[0], (2, 256, 16)), jax.random.normal(keys[1], (31, 16))
    tokens = jax.random.randint(keys[2], (2, 256), 0, 31)

    def gradient(dtype, chunk_tokens):
        def total(kernel):
            return jnp.sum(token_logp(hidden.astype(dtype), kernel, tokens, chunk_tokens=chunk_tokens)[0])

        return jax.grad(total)(kernel)

    exact = gradient(jnp.float32, 512)
    one, many = (float(jnp.linalg.norm(gradient(jnp.bfloat16, size) - exact)) for size in (512, 8))
    assert many < 1.5 * one

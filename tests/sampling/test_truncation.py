"""Truncation equals the definition with a sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.sampling.truncation import min_p_mask, top_k_mask, top_p_mask, truncate

pytestmark = pytest.mark.check

LOGITS = np.random.default_rng(0).normal(size=(5, 301)).astype(np.float32) * 3


@pytest.mark.parametrize("k", [1, 2, 17, 300, 301])
def test_top_k_keeps_exactly_the_k_largest(k):
    mask = np.asarray(jax.jit(top_k_mask)(LOGITS, jnp.full((5,), k)))
    best = np.argsort(-LOGITS, axis=1)[:, :k]
    assert mask.sum() == 5 * k and np.take_along_axis(mask, best, 1).all()


def test_top_k_differs_by_row_and_zero_is_off():
    mask = np.asarray(top_k_mask(jnp.asarray(LOGITS), jnp.asarray([0, 1, 5, 400, 301])))
    assert mask.sum(1).tolist() == [301, 1, 5, 301, 301]


def test_top_k_counts_both_zeros_as_one_value():
    logits = jnp.asarray([[0.0, -0.0, -1.0, -2.0]])
    assert np.asarray(top_k_mask(logits, jnp.asarray([1]))).tolist() == [[True, True, False, False]]


@pytest.mark.parametrize("p", [1e-40, 1e-6, 0.1, 0.5, 0.9, 0.999])
def test_top_p_keeps_the_smallest_set_that_reaches_p(p):
    mask = np.asarray(jax.jit(top_p_mask)(LOGITS, jnp.full((5,), p)))
    for logits, kept in zip(LOGITS.astype(np.float64), mask, strict=True):
        order = np.argsort(-logits)
        mass = np.cumsum(np.exp(logits[order]) / np.exp(logits).sum())
        count = int(np.searchsorted(mass, np.float32(p))) + 1
        assert set(np.flatnonzero(kept)) == set(order[:count])


def test_top_p_one_keeps_all_and_min_p_is_relative_to_the_best():
    assert np.asarray(top_p_mask(jnp.asarray(LOGITS), jnp.ones((5,)))).all()
    mask = np.asarray(min_p_mask(jnp.asarray(LOGITS), jnp.full((5,), 0.25)))
    assert (mask == (LOGITS.max(1, keepdims=True) + np.log(0.25) <= LOGITS)).all()
    assert np.asarray(min_p_mask(jnp.asarray(LOGITS), jnp.zeros((5,)))).all()


def test_truncate_applies_top_p_to_the_tokens_that_top_k_keeps():
    logits = jnp.log(jnp.asarray([[0.4, 0.3, 0.2, 0.1]]))
    kept = truncate(logits, jnp.asarray([2]), jnp.asarray([0.56]), jnp.asarray([0.0]))
    assert np.isfinite(np.asarray(kept)).tolist() == [[True, False, False, False]]  # 0.4 / 0.7 reaches 0.56

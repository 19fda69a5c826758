"""The norm of a decode step: a row's numbers do not depend on how many rows there are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.qwen2 import RMSNorm


@pytest.mark.parametrize("shape", [(32,), (64,), (2, 8), (1, 128)])
def test_a_row_does_not_know_how_many_there_are(shape):
    """Of hidden states, and of heads; the most rows are enough for XLA to take the array for a large one."""
    rows = np.random.default_rng(0).normal(size=(512, 1, *shape)).astype(np.float32)
    norm, scale = RMSNorm(1e-6, jnp.float32, unit=32), {"params": {"scale": jnp.ones(shape[-1])}}
    apply = jax.jit(norm.apply)
    whole = np.asarray(apply(scale, rows))
    for count in (8, 32, 96):
        np.testing.assert_array_equal(np.asarray(apply(scale, rows[:count])), whole[:count])

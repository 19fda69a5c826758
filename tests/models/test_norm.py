"""The norm of a decode step on a CPU: a row's numbers are independent of the number of rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.cpu import DecodeKernels
from models.qwen2 import RMSNorm

pytestmark = pytest.mark.check


@pytest.mark.parametrize("shape", [(32,), (64,), (2, 8), (1, 128)])
def test_a_row_is_independent_of_the_number_of_rows(shape):
    """For hidden states and for heads; 512 rows are above the size where XLA emits other instructions."""
    rows = np.random.default_rng(0).normal(size=(512, 1, *shape)).astype(np.float32)
    norm, scale = RMSNorm(1e-6, jnp.float32, DecodeKernels()), {"params": {"scale": jnp.ones(shape[-1])}}
    apply = jax.jit(norm.apply)
    full = np.asarray(apply(scale, rows))
    for count in (8, 32, 96):
        np.testing.assert_array_equal(np.asarray(apply(scale, rows[:count])), full[:count])

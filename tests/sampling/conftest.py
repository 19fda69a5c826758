"""Samplers and weights that tests share."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import pytest
from fixtures.small_samplers import CONFIG, by_name, mesh, run

from jaxrl.sampling import Sampler
from models.backends import decode_kernels
from models.qwen2 import Qwen2


@pytest.fixture(scope="session")
def params():
    ones = jnp.ones((1, 4), jnp.int32)
    tree = nn.meta.unbox(Qwen2(CONFIG).init(jax.random.key(1), ones, ones, ones[:, 0])["params"])
    return jax.tree.map(lambda x: x * 6 if x.ndim > 1 else x, tree)  # sharper logits than at initialisation


@pytest.fixture(scope="session")
def samplers():
    return {devices: Sampler(CONFIG, mesh(devices), rows=16, chunk=8) for devices in (1, 4)}


@pytest.fixture(scope="session")
def plain_sampler():
    """With the kernels of GPUs, which run on a CPU as well; the cache is [B, K, S, H]."""
    return Sampler(CONFIG, mesh(1), rows=16, chunk=8, kernels=decode_kernels("gpu"))


@pytest.fixture(scope="session")
def reference(samplers, params):
    return by_name(run(samplers[1], params), range(6), range(4))


@pytest.fixture
def without_type_checks():
    """Lets arguments of wrong types reach the validation of the sampler."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)

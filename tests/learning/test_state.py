"""The training state: initialization, new optimizers, and the moving reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.learning.optimizer import OptimizerSpec, make_optimizer
from jaxrl.learning.reference_policy import ReferenceSpec, make_reference_update
from jaxrl.learning.state import Critic, fresh_moments, init_params, init_state
from models.config import Qwen2Config
from models.qwen2 import Qwen2
from models.value_head import Qwen2Value, value_config

MODEL = Qwen2(Qwen2Config(32, 16, 32, 2, 4, 2, 4))
ADAM = make_optimizer(OptimizerSpec())
CRITIC = Critic(Qwen2Value(value_config(MODEL.config)), ADAM)


@pytest.fixture
def state():
    mesh = make_mesh(MeshSpec(data=2, fsdp=2))
    return init_state(MODEL, ADAM, mesh, init_params(MODEL, mesh, jax.random.key(0)), CRITIC, moving_reference=True)


def test_a_critic_starts_with_the_trunk_and_without_a_vocabulary_head(state):
    critic, policy = dict(state.critic.params), dict(state.params)
    assert not np.any(critic.pop("value_head")["vector"]) and policy.pop("lm_head")
    jax.tree.map(np.testing.assert_array_equal, critic, policy)
    jax.tree.map(np.testing.assert_array_equal, state.reference, state.params)


def test_no_two_parts_of_the_state_share_an_array(state):
    """Policy, critic and reference start equal; donating one must not delete another."""
    jax.tree.map(lambda x: x.delete(), state.params)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state.critic, state.reference)))


def test_fresh_moments_resets_the_optimizers_only(state):
    marked = jax.tree.map(lambda x: x + jnp.ones((), x.dtype), state)
    fresh = fresh_moments(marked, ADAM, CRITIC)
    for found, expected in (
        (fresh.opt_state, state.opt_state),
        (fresh.critic.opt_state, state.critic.opt_state),
        (fresh.params, marked.params),
        (fresh.critic.params, marked.critic.params),
        (fresh.reference, marked.reference),
    ):
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert x.sharding.is_equivalent_to(y.sharding, x.ndim)


@pytest.mark.parametrize(
    ("spec", "moved"),
    [
        (ReferenceSpec(), [0, 0, 0, 0]),
        (ReferenceSpec(every=2), [0, 1, 1, 1]),
        (ReferenceSpec(every=1, decay=0.75), [0.25, 0.4375, 0.578125, 0.68359375]),
    ],
)
def test_the_moving_reference_is_updated_as_specified(state, spec, moved):
    """All policy weights are 1 above the reference: copies every second step, or a moving average."""
    update_reference, start = make_reference_update(spec), np.asarray(state.reference["final_norm"]["scale"])
    sharding = state.reference["embed"]["embedding"].sharding
    state = state._replace(params=jax.tree.map(lambda x: x + 1, state.params))
    for step, expected in enumerate(moved, start=1):
        state = update_reference(state, step)
        np.testing.assert_allclose(state.reference["final_norm"]["scale"], start + expected, rtol=1e-6)
    assert state.reference["embed"]["embedding"].sharding.is_equivalent_to(sharding, 2)
    jax.tree.map(lambda x: x.delete(), state.params)
    assert np.isfinite(state.reference["embed"]["embedding"]).all()


def test_invalid_reference_specs_are_refused():
    with pytest.raises(ValueError, match="no effect with every=0"):
        ReferenceSpec(decay=0.5)
    with pytest.raises(ValueError, match="expected every of 0 or more and a decay from 0 to under 1"):
        ReferenceSpec(every=1, decay=1.0)

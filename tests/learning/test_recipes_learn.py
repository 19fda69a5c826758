"""Every recipe raises the reward of a toy task: sample the lower eight of sixteen tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.algorithms import RECIPES, Batch, compute_advantages, recipe
from jaxrl.algorithms.advantages import Needs, value_targets
from jaxrl.algorithms.kl import ESTIMATORS
from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.learning.micro_batches import LayoutSpec
from jaxrl.learning.optimizer import OptimizerSpec, make_optimizer
from jaxrl.learning.state import Critic, init_params, init_state
from jaxrl.learning.update import Scalars, UpdateSpec, compile_logp, make_logp, make_update, make_values
from models.config import Qwen2Config
from models.params import head_kernel
from models.qwen2 import Qwen2
from models.value_head import Qwen2Value

CONFIG = Qwen2Config(16, 16, 32, 1, 2, 1, 8, tie_word_embeddings=True)
MODEL, ADAM = Qwen2(CONFIG), make_optimizer(OptimizerSpec())
PROMPTS, SAMPLES, PROMPT, NEW = 4, 8, 2, 4
ROWS, LENGTH = PROMPTS * SAMPLES, PROMPT + NEW
LENGTHS = np.full(ROWS, LENGTH, np.int32)
MASK = np.tile(np.arange(LENGTH) >= PROMPT, (ROWS, 1)).astype(np.float32)
SPEC = UpdateSpec(LayoutSpec((8,), 8 * ROWS), minibatches=2)
COEFFICIENT, STEPS = 0.01, 16


@functools.partial(jax.jit, static_argnums=2)
def sample(params, key, greedy):
    """Rows of prompt and response, with one full forward pass per token."""
    tokens = (
        jnp.zeros((ROWS, LENGTH), jnp.int32)
        .at[:, :PROMPT]
        .set(jnp.repeat(jnp.arange(2 * PROMPTS, dtype=jnp.int32).reshape(PROMPTS, PROMPT), SAMPLES, axis=0))
    )
    positions = jnp.broadcast_to(jnp.arange(LENGTH, dtype=jnp.int32)[None], tokens.shape)

    def one(tokens, t):
        hidden, _ = MODEL.apply({"params": params}, tokens, positions, jnp.full((ROWS,), LENGTH, jnp.int32))
        logits = jnp.take(hidden, t - 1, axis=1) @ head_kernel(params, CONFIG).T
        new = jnp.argmax(logits, 1) if greedy else jax.random.categorical(jax.random.fold_in(key, t), logits)
        return tokens.at[:, t].set(new.astype(jnp.int32)), None

    return jax.lax.scan(one, tokens, jnp.arange(PROMPT, LENGTH))[0]


def reward(tokens):
    """Share of lower tokens in each response, [P, G]."""
    return (np.asarray(tokens)[:, PROMPT:] < 8).mean(1, dtype=np.float32).reshape(PROMPTS, SAMPLES)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("grpo", "ppo") else pytest.mark.slow) for name in RECIPES]
)
def test_the_recipe_raises_the_reward(name):
    loss, mesh = recipe(name, max_length=NEW), make_mesh(MeshSpec(), jax.devices()[:1])
    critic = Critic(Qwen2Value(CONFIG), ADAM) if loss.needs is Needs.CRITIC else None
    params = init_params(MODEL, mesh, jax.random.key(0))
    state, update = init_state(MODEL, ADAM, mesh, params, critic), make_update(MODEL, ADAM, loss, mesh, SPEC, critic)
    logp, values_of = (
        make_logp(compile_logp(MODEL, mesh, SPEC), mesh, SPEC.layout),
        critic and make_values(critic.model, mesh, SPEC.layout),
    )
    scalars = Scalars(0.01, kl_coefficient=COEFFICIENT, critic_learning_rate=0.01)
    seen = []
    for step in range(STEPS):
        tokens = np.asarray(sample(state.params, jax.random.key(step), False))
        rewards, greedy, values, penalty = reward(tokens), None, None, np.zeros_like(MASK)
        batch = Batch(tokens, LENGTHS, MASK, MASK)
        if loss.kl_placement != "none":
            batch = batch._replace(ref_logp=logp(params, tokens, LENGTHS, 1.0))
        if loss.kl_placement == "reward":
            policy_logp = jnp.asarray(logp(state.params, tokens, LENGTHS, 1.0))
            penalty = COEFFICIENT * ESTIMATORS[loss.kl](policy_logp, jnp.asarray(batch.ref_logp))
        if loss.needs is Needs.GREEDY:
            greedy = jnp.asarray(reward(sample(state.params, jax.random.key(0), True))[:, 0])
        if critic:
            values = jnp.asarray(values_of(state.critic.params, tokens, LENGTHS))
            returns = value_targets(jnp.asarray(rewards), jnp.asarray(MASK), penalty, values)
            batch = batch._replace(values=np.asarray(values), returns=np.asarray(returns))
        advantages = compute_advantages(
            loss.advantage, jnp.asarray(rewards), jnp.asarray(MASK), jnp.asarray(penalty), values=values, greedy=greedy
        )
        state, _ = update(state, batch._replace(advantages=np.asarray(advantages)), scalars)
        seen.append(rewards.mean())
    assert seen[0] < 0.7 and np.mean(seen[-3:]) > 0.9, np.round(seen, 2)

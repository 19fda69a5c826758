"""The training state: everything an update changes, as one NamedTuple."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Int

from jaxrl.learning.mesh import DECODE_RULES, RULES, replicated, shardings_for
from models.config import Qwen2Config
from models.lora import join, split
from models.qwen2 import Qwen2
from models.value_head import Qwen2Value, value_params


class Learned(NamedTuple):
    """Trained parameters and the state of their optimizer."""

    params: Any
    opt_state: Any


class TrainState(NamedTuple):
    """Parameters, optimizer state, and what else training changes. All trees are unboxed, with scanned layers.

    step: optimizer steps taken. params: the trained master weights, or adapters.
    critic: of an algorithm with a critic, else None.
    reference: the trained parameters of a moving reference, else None. A fixed reference is not part of the state.
    base: the frozen weights if `params` are adapters, else None. Not saved in checkpoints.
    """

    step: Int[Array, ""]
    params: Any
    opt_state: Any
    critic: Learned | None = None
    reference: Any = None
    base: Any = None

    @property
    def policy(self) -> Learned:
        """The trained parameters of the policy and the state of their optimizer."""
        return Learned(self.params, self.opt_state)

    @property
    def full_params(self) -> Any:
        """Parameters of a model without adapters: the frozen base if `params` are adapters, else `params`."""
        return self.params if self.base is None else self.base

    @property
    def model_params(self) -> Any:
        """The tree to apply the policy's model to: `params`, joined with the base if they are adapters."""
        return self.with_base(self.params)

    @property
    def reference_params(self) -> Any:
        """The tree to apply the model to for the moving reference; None without one."""
        return None if self.reference is None else self.with_base(self.reference)

    def with_base(self, params: Any) -> Any:
        """These trained parameters joined with the frozen base, if there is one. No array is copied."""
        return params if self.base is None else join(self.base, params)


class Critic(NamedTuple):
    """A critic's model and its own optimizer."""

    model: Qwen2Value
    optimizer: optax.GradientTransformation


def abstract_params(model: nn.Module, mesh: Mesh | AbstractMesh, rules: Mapping[str, tuple[str, ...]] = RULES) -> Any:
    """Shapes, dtypes and shardings of the model's parameters. Allocates nothing."""
    boxed = _boxed_params(model)
    return _with_shardings(nn.meta.unbox(boxed), shardings_for(boxed, mesh, rules))


def abstract_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    mesh: Mesh | AbstractMesh,
    critic: Critic | None = None,
    *,
    moving_reference: bool = False,
) -> TrainState:
    """Shapes, dtypes and shardings of the state. Moments are sharded like their parameters. Allocates nothing."""
    # The optimizer is initialized with boxed parameters, so each moment has the logical axes of its parameter.
    base, params = _trained(model, _boxed_params(model))
    policy = _boxed(params, optimizer)
    critic_state = critic and _boxed(_boxed_params(critic.model), critic.optimizer)
    step = jax.ShapeDtypeStruct((), jnp.int32)
    boxed = TrainState(step, *policy, critic_state, policy.params if moving_reference else None, base)
    shardings = shardings_for(boxed, mesh)
    return _with_shardings(nn.meta.unbox(boxed), shardings)


def decode_shardings(config: Qwen2Config, mesh: Mesh) -> Any:
    """Shardings of the weights of the decoding model, which has unrolled layers: over `tensor` only."""
    return shardings_for(_boxed_params(Qwen2(config, scan_layers=False)), mesh, DECODE_RULES)


def init_params(model: nn.Module, mesh: Mesh, key: Array) -> Any:
    """Random parameters, initialized in their sharding."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract_params(model, mesh))
    return jax.jit(lambda key: nn.meta.unbox(_init(model, key)), out_shardings=shardings)(key)


def init_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    params: Any,
    critic: Critic | None = None,
    *,
    moving_reference: bool = False,
    key: Array | None = None,
) -> TrainState:
    """The state at step 0 with a copy of these parameters, sharded over the mesh.

    A critic starts with the same trunk, a moving reference with the same weights. With adapters, `params` become the
    frozen base (not copied if they have its sharding already), and the adapters are initialized with `key`. A critic
    together with adapters is not supported.
    """
    abstract = abstract_state(model, optimizer, mesh, critic, moving_reference=moving_reference)
    shardings = jax.tree.map(lambda x: x.sharding, abstract)

    def fresh(params, optimizer, shardings):
        params = jax.device_put(params, shardings.params, may_alias=False)
        return Learned(params, jax.jit(optimizer.init, out_shardings=shardings.opt_state)(params))

    base = None
    if shardings.base is not None:
        base = jax.device_put(params, shardings.base)
        params = jax.jit(lambda key: split(nn.meta.unbox(_init(model, key)))[1], out_shardings=shardings.params)(key)
    critic_state = critic and fresh(value_params(params), critic.optimizer, shardings.critic)
    reference = jax.device_put(params, shardings.reference, may_alias=False) if moving_reference else None
    policy = fresh(params, optimizer, shardings)
    step = jax.device_put(jnp.zeros((), jnp.int32), replicated(mesh))
    return TrainState(step, *policy, critic_state, reference, base)


def fresh_moments(
    state: TrainState, optimizer: optax.GradientTransformation, critic: Critic | None = None
) -> TrainState:
    """The state with newly initialized optimizers. Parameters are kept."""

    def initialize(learned, optimizer):
        shardings = jax.tree.map(lambda x: x.sharding, learned.opt_state)
        return jax.jit(optimizer.init, out_shardings=shardings)(learned.params)

    if critic:
        state = state._replace(critic=state.critic._replace(opt_state=initialize(state.critic, critic.optimizer)))  # pyright: ignore[reportOptionalMemberAccess]
    return state._replace(opt_state=initialize(state, optimizer))


def _init(model, key):
    tokens = jnp.zeros((1, 2), jnp.int32)
    model = model.clone(attention="plain")  # no shape depends on it, and fused kernels need a GPU even in eval_shape
    return model.init(key, tokens, tokens, jnp.ones((1,), jnp.int32))["params"]


def _trained(model, params):
    """The frozen part of the model's parameters (None without adapters) and the trained part."""
    return split(params) if model.lora else (None, params)


def _boxed(params, optimizer):
    """Boxed shapes of these parameters and of their optimizer state."""
    return Learned(params, jax.eval_shape(optimizer.init, params))


@functools.lru_cache(maxsize=64)  # tracing the initialization of a model takes half a second
def _boxed_params(model):
    return jax.eval_shape(lambda key: _init(model, key), jax.random.key(0))


def _with_shardings(shapes, shardings):
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)

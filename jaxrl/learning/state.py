"""What an update changes, as one NamedTuple; the model and the optimizer stand outside it."""

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
    """Parameters and the moments of the optimizer that changes them."""

    params: Any
    opt_state: Any


class TrainState(NamedTuple):
    """`step` counts optimizer steps; `params` are masters (scanned tree, unboxed), `opt_state` moments.

    critic: of an algorithm with one, else None. reference: the weights that the KL is taken to, where these follow the
    policy (frozen ones stand outside), else None. base: where `params` are adapters, the frozen weights beside them; no
    step changes these and no checkpoint has them.
    """

    step: Int[Array, ""]
    params: Any
    opt_state: Any
    critic: Learned | None = None
    reference: Any = None
    base: Any = None

    def weights(self, params: Any) -> Any:
        """The tree that the model takes, with these trained parameters: the state's own, or those of its reference."""
        return params if self.base is None else join(self.base, params)


class Critic(NamedTuple):
    """A critic's model and its own optimizer."""

    model: Qwen2Value
    optimizer: optax.GradientTransformation


def abstract_params(model: nn.Module, mesh: Mesh | AbstractMesh, rules: Mapping[str, tuple[str, ...]] = RULES) -> Any:
    """Shapes, types and shardings of the model's parameters, nothing allocated."""
    boxed = _boxed_params(model)
    return _with_shardings(nn.meta.unbox(boxed), shardings_for(boxed, mesh, rules))


def abstract_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    mesh: Mesh | AbstractMesh,
    critic: Critic | None = None,
    *,
    follows: bool = False,
) -> TrainState:
    """Shapes, types and shardings of the whole state; moments are split like their parameters.

    follows: whether the state has a reference of its own.
    """
    # The boxes travel through the optimizer, so each moment arrives with the logical axes of its parameter.
    base, params = _trained(model, _boxed_params(model))
    policy = _boxed(params, optimizer)
    valued = critic and _boxed(_boxed_params(critic.model), critic.optimizer)
    step = jax.ShapeDtypeStruct((), jnp.int32)
    boxed = TrainState(step, *policy, valued, policy.params if follows else None, base)
    shardings = shardings_for(boxed, mesh)
    return _with_shardings(nn.meta.unbox(boxed), shardings)


def decode_shardings(config: Qwen2Config, mesh: Mesh) -> Any:
    """Where the weights of a decoding model (its layers unrolled) lie: split over `tensor` only."""
    return shardings_for(_boxed_params(Qwen2(config, scan_layers=False)), mesh, DECODE_RULES)


def init_params(model: nn.Module, mesh: Mesh, key: Array) -> Any:
    """Fresh random parameters, made where they will live."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract_params(model, mesh))
    return jax.jit(lambda key: nn.meta.unbox(_init(model, key)), out_shardings=shardings)(key)


def init_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    params: Any,
    critic: Critic | None = None,
    *,
    follows: bool = False,
    key: Array | None = None,
) -> TrainState:
    """State at step 0 with these parameters (copied to where the mesh wants them).

    A critic starts from the same trunk, and a reference that follows from the same weights. Of a model with adapters
    the parameters become the frozen base (in place, if they lie there), and the adapters are drawn from `key`.
    """
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(model, optimizer, mesh, critic, follows=follows))

    def fresh(params, optimizer, place):
        params = jax.device_put(params, place.params, may_alias=False)
        return Learned(params, jax.jit(optimizer.init, out_shardings=place.opt_state)(params))

    base = None
    if shardings.base is not None:
        base = jax.device_put(params, shardings.base)
        params = jax.jit(lambda key: split(nn.meta.unbox(_init(model, key)))[1], out_shardings=shardings.params)(key)
    valued = critic and fresh(value_params(params), critic.optimizer, shardings.critic)
    reference = jax.device_put(params, shardings.reference, may_alias=False) if follows else None
    policy = fresh(params, optimizer, shardings)
    return TrainState(jax.device_put(jnp.zeros((), jnp.int32), replicated(mesh)), *policy, valued, reference, base)


def fresh_moments(
    state: TrainState, optimizer: optax.GradientTransformation, critic: Critic | None = None
) -> TrainState:
    """The state with the moments of its optimizers forgotten; the old ones are given up."""

    def forget(learned, optimizer):
        place = jax.tree.map(lambda x: x.sharding, learned.opt_state)
        return jax.jit(optimizer.init, out_shardings=place)(learned.params)

    if critic:
        state = state._replace(critic=state.critic._replace(opt_state=forget(state.critic, critic.optimizer)))
    return state._replace(opt_state=forget(state, optimizer))


def _init(model, key):
    tokens = jnp.zeros((1, 2), jnp.int32)
    model = model.clone(attention="plain")  # no shape depends on it, and the fused kernel needs a GPU even for shapes
    return model.init(key, tokens, tokens, jnp.ones((1,), jnp.int32))["params"]


def _trained(model, params):
    """What of a model's parameters is frozen (None: nothing), and what is trained."""
    return split(params) if model.lora else (None, params)


def _boxed(params, optimizer):
    return Learned(params, jax.eval_shape(optimizer.init, params))


def _boxed_params(model):
    return jax.eval_shape(lambda key: _init(model, key), jax.random.key(0))


def _with_shardings(shapes, shardings):
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)

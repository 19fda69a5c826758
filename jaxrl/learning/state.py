"""What an update changes, as one NamedTuple; the model and the optimizer stand outside it."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int

from jaxrl.learning.mesh import DECODE_RULES, replicated, shardings_for
from models.config import Qwen2Config
from models.qwen2 import Qwen2


class TrainState(NamedTuple):
    """`step` counts optimizer steps; `params` are masters (scanned tree, unboxed), `opt_state` moments."""

    step: Int[Array, ""]
    params: Any
    opt_state: Any


def abstract_params(model: nn.Module, mesh: Mesh) -> Any:
    """Shapes, types and shardings of the model's parameters, nothing allocated."""
    boxed = _boxed_params(model)
    return _with_shardings(nn.meta.unbox(boxed), shardings_for(boxed, mesh))


def abstract_state(model: nn.Module, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Shapes, types and shardings of the whole state; moments are split like their parameters."""
    params = _boxed_params(model)
    # The boxes travel through the optimizer, so each moment arrives with the logical axes of its parameter.
    boxed = TrainState(jax.ShapeDtypeStruct((), jnp.int32), params, jax.eval_shape(optimizer.init, params))
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
    model: nn.Module, optimizer: optax.GradientTransformation, mesh: Mesh, params: Any
) -> TrainState:
    """State at step 0 with these parameters (copied to where the mesh wants them)."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(model, optimizer, mesh))
    params = jax.device_put(params, shardings.params, may_alias=False)
    opt_state = jax.jit(optimizer.init, out_shardings=shardings.opt_state)(params)
    return TrainState(jax.device_put(jnp.zeros((), jnp.int32), replicated(mesh)), params, opt_state)


def _init(model, key):
    tokens = jnp.zeros((1, 2), jnp.int32)
    model = model.clone(attention="plain")  # no shape depends on it, and the fused kernel needs a GPU even for shapes
    return model.init(key, tokens, tokens, jnp.ones((1,), jnp.int32))["params"]


def _boxed_params(model):
    return jax.eval_shape(lambda key: _init(model, key), jax.random.key(0))


def _with_shardings(shapes, shardings):
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)

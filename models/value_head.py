"""A Qwen2 trunk with one output per token: the critic of an actor-critic algorithm."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from models.config import Qwen2Config
from models.params import Params
from models.qwen2 import Qwen2


class Qwen2Value(Qwen2):
    """`apply(params, tokens, positions, lengths)` -> [B, T] float32: a linear map of each hidden state.

    The parameters are those of Qwen2 without a vocabulary head (see `value_config`), and `value_head`.
    """

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "B T"], positions: Int[Array, "B T"], lengths: Int[Array, " B"]
    ) -> Float[Array, "B T"]:
        """The value after each token. Outputs beyond `lengths` are undefined."""
        hidden, _ = super().__call__(tokens, positions, lengths)
        return ValueHead(self.param_dtype, name="value_head")(hidden)


class ValueHead(nn.Module):
    """A linear map to one value, initialized with zeros: a new critic predicts 0."""

    param_dtype: Any

    @nn.compact
    def __call__(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T"]:
        zeros = nn.initializers.zeros_init()
        vector = self.param(
            "vector", nn.with_logical_partitioning(zeros, ("embed",)), (hidden.shape[-1],), self.param_dtype
        )
        bias = self.param("bias", nn.with_logical_partitioning(zeros, (None,)), (1,), self.param_dtype)
        values = jnp.einsum("btd,d->bt", hidden, vector.astype(hidden.dtype), preferred_element_type=jnp.float32)  # pyright: ignore[reportAttributeAccessIssue]
        return values + bias.astype(jnp.float32)[None]  # pyright: ignore[reportAttributeAccessIssue]


def value_config(config: Qwen2Config) -> Qwen2Config:
    """The config of a critic with the trunk of this model, without a vocabulary head."""
    return dataclasses.replace(config, tie_word_embeddings=True)


def value_params(params: Params) -> dict[str, Any]:
    """Initial parameters of a critic: the trunk of a model, not copied, and a value head of zeros."""
    trunk = {name: value for name, value in params.items() if name != "lm_head"}
    vector = jnp.zeros_like(params["final_norm"]["scale"])
    return trunk | {"value_head": {"vector": vector, "bias": jnp.zeros((1,), vector.dtype)}}

"""What the model holds inside: the residual stream after layers, and what its head would say of it there."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from models.config import Qwen2Config
from models.params import Params, head_kernel
from models.qwen2 import Block, Qwen2, RMSNorm

# Tokens whose logits [V] are held at a time.
TOKENS = 1024


class Seen(NamedTuple):
    """One forward pass, seen after the layers that were asked for (axis L, in the order of asking)."""

    hidden: Float[Array, "B L T D"]  # the residual stream, before any norm
    final: Float[Array, "B T D"]  # the model's output: the stream after all layers, normed
    top_tokens: Int[Array, "B L T K"]  # likeliest first
    top_logp: Float[Array, "B L T K"]  # float32, nats


def check_layers(layers: Sequence[int], config: Qwen2Config) -> None:
    """Raise ValueError for a layer that the model does not have."""
    if not layers or not all(0 <= layer < config.num_hidden_layers for layer in layers):
        raise ValueError(
            f"expected layers from 0 to {config.num_hidden_layers - 1}, got {', '.join(map(str, layers)) or 'none'}."
        )


def look_inside(
    model: Qwen2, params: Params, tokens: Int[Array, "B T"], lengths: Int[Array, " B"], layers: Sequence[int], top: int
) -> Seen:
    """Runs the unrolled model over whole rows and keeps what stands after `layers` (from 0).

    The logit lens at t is the distribution of token t + 1 that the final norm and the head give for a layer's stream;
    at the last layer it is the model's own. Positions at and beyond `lengths` hold garbage. Raises ValueError for a
    model with scanned layers, whose single layers can't be told apart, and as `check_layers` does.
    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    if model.scan_layers:
        raise ValueError("expected a model with scan_layers=False (see unstack), got one with scanned layers.")
    check_layers(layers, model.config)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    (final, _), kept = model.apply(
        {"params": params},
        tokens,
        positions,
        lengths,
        mutable=["intermediates"],
        capture_intermediates=lambda module, _: isinstance(module, Block),
    )
    streams = [kept["intermediates"][f"layers_{layer}"]["__call__"][0][0] for layer in layers]
    hidden = jnp.stack(streams, axis=1)
    norm = RMSNorm(model.config.rms_norm_eps, model.param_dtype)
    kernel = head_kernel(params, model.config).astype(model.dtype)

    def read(stream: Float[Array, " D"]) -> tuple[Float[Array, " K"], Int[Array, " K"]]:
        logits = jnp.einsum("d,vd->v", stream, kernel, preferred_element_type=jnp.float32)
        return tuple(jax.lax.top_k(jax.nn.log_softmax(logits), top))

    normed = norm.apply({"params": params["final_norm"]}, hidden)
    logp, chosen = jax.lax.map(read, normed.reshape(-1, normed.shape[-1]), batch_size=TOKENS)
    shape = (*hidden.shape[:3], top)
    return Seen(hidden, final, chosen.reshape(shape), logp.reshape(shape))

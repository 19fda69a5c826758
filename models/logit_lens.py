"""Hidden states after selected layers, and their logit lens: the head applied to the residual stream."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from models.config import Qwen2Config
from models.params import Params, head_kernel
from models.qwen2 import Block, Qwen2, RMSNorm

# Positions, over all rows and layers, whose logits [V] are in memory at once.
TOKENS_PER_BATCH = 1024


class LayerOutputs(NamedTuple):
    """Hidden states and top-K predictions of a forward pass. Axis L: the requested layers, in their order."""

    hidden: Float[Array, "B L T D"]  # residual stream after the layer, before any norm
    final: Float[Array, "B T D"]  # output of the final norm, after all layers
    top_tokens: Int[Array, "B L T K"]  # in descending order of probability
    top_logp: Float[Array, "B L T K"]  # float32, nats


def check_layers(layers: Sequence[int], config: Qwen2Config) -> None:
    """Raises ValueError unless all layers exist in the model."""
    if not layers or not all(0 <= layer < config.num_hidden_layers for layer in layers):
        raise ValueError(
            f"expected layers from 0 to {config.num_hidden_layers - 1}, got {', '.join(map(str, layers)) or 'none'}; "
            "choose existing layers."
        )


def apply_logit_lens(
    model: Qwen2, params: Params, tokens: Int[Array, "B T"], lengths: Int[Array, " B"], layers: Sequence[int], top: int
) -> LayerOutputs:
    """Runs the unrolled model on right-padded rows and returns hidden states and logit lens after `layers` (from 0).

    The logit lens at position t applies the final norm and the head to a layer's residual stream: a distribution of
    token t + 1, which at the last layer equals the model's. top: number K of predictions. Values at positions from
    `lengths` on are undefined. Raises ValueError for a model with scanned layers, and as `check_layers`.
    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    if model.scan_layers:
        raise ValueError(
            "expected a model with scan_layers=False, got scanned layers; unstack the parameters and set it."
        )
    check_layers(layers, model.config)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    (final, _), state = model.apply(
        {"params": params},
        tokens,
        positions,
        lengths,
        mutable=["intermediates"],
        capture_intermediates=lambda module, _: isinstance(module, Block),
    )
    streams = [state["intermediates"][f"layers_{layer}"]["__call__"][0][0] for layer in layers]
    hidden = jnp.stack(streams, axis=1)
    norm = RMSNorm(model.config.rms_norm_eps, model.param_dtype)
    kernel = head_kernel(params, model.config).astype(model.dtype)

    def predict(stream: Float[Array, " D"]) -> tuple[Float[Array, " K"], Int[Array, " K"]]:
        logits = jnp.einsum("d,vd->v", stream, kernel, preferred_element_type=jnp.float32)
        logp, tokens = jax.lax.top_k(jax.nn.log_softmax(logits), top)
        return logp, tokens

    normed = norm.apply({"params": params["final_norm"]}, hidden)
    logp, top_tokens = jax.lax.map(predict, normed.reshape(-1, normed.shape[-1]), batch_size=TOKENS_PER_BATCH)  # pyright: ignore[reportAttributeAccessIssue]
    shape = (*hidden.shape[:3], top)
    return LayerOutputs(hidden, final, top_tokens.reshape(shape), logp.reshape(shape))

"""Log-probabilities and entropy from hidden states, without ever holding [B, T, V]."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from models.cpu import multiply


def token_logp(
    hidden: Float[Array, "B T D"],
    kernel: Float[Array, "V D"],
    tokens: Int[Array, "B T"],
    temperature: Float[Array, ""] | float = 1.0,
    *,
    chunk_tokens: int = 8192,
    entropy_gradient: bool = False,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """log p(tokens[:, t] | tokens[:, :t]) and the entropy of that distribution, in nats, float32.

    Shifted by one (see `shift`, the only place where that happens): both results at t speak of `tokens[:, t]`, and
    are 0 at t = 0. `hidden` is the model's output (final norm applied), `kernel` the head. Logits are accumulated in
    float32 and divided by `temperature`, which may be traced: the distribution the sampler draws from, before
    truncation. The head runs over pieces of T of about `chunk_tokens` tokens (all rows and devices together),
    each recomputed in the backward pass. The entropy carries a gradient only if `entropy_gradient`.
    """
    rows, length, width = hidden.shape
    targets = jnp.roll(tokens, -1, axis=1)
    count = max(1, math.ceil(rows * length / chunk_tokens))
    piece = math.ceil(length / count)
    count = math.ceil(length / piece)
    head = functools.partial(_head, kernel, 1.0 / temperature, entropy_gradient)
    if count == 1:
        logp, entropy = head((hidden, targets))
    else:
        padding = count * piece - length
        hidden = jnp.pad(hidden, ((0, 0), (0, padding), (0, 0)))
        targets = jnp.pad(targets, ((0, 0), (0, padding)))
        pieces = (
            hidden.reshape(rows, count, piece, width).swapaxes(0, 1),
            targets.reshape(rows, count, piece).swapaxes(0, 1),
        )
        logp, entropy = (
            x.swapaxes(0, 1).reshape(rows, count * piece)[:, :length] for x in jax.lax.map(jax.checkpoint(head), pieces)
        )
    return shift(logp), shift(entropy)


def shift(after: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """What was said behind token t - 1, at t: results then speak of `tokens[:, t]`; 0 at t = 0."""
    return jnp.concatenate([jnp.zeros_like(after[:, :1]), after[:, :-1]], axis=1)


def _head(kernel, inverse_temperature, entropy_gradient, piece):
    hidden, targets = piece
    kernel = kernel.astype(hidden.dtype)  # here, so that the gradients of all pieces are added up as float32
    logits = multiply(hidden, kernel, 1, jnp.float32) * inverse_temperature
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    # A compare and a sum instead of a gather: it fuses, splits over a sharded vocabulary, and has no scatter
    # as gradient.
    chosen = jnp.arange(kernel.shape[0], dtype=targets.dtype)[None, None, :] == targets[..., None]
    logp = jnp.sum(jnp.where(chosen, logits, 0.0), axis=-1) - normalizer
    if not entropy_gradient:
        logits, normalizer = jax.lax.stop_gradient((logits, normalizer))
    entropy = normalizer - jnp.sum(jnp.exp(logits - normalizer[..., None]) * logits, axis=-1)
    return logp, entropy

"""Log-probabilities and entropy from hidden states, without ever holding [B, T, V]."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Head = Callable[[Float[Array, "B T D"], Float[Array, "V D"]], Float[Array, "B T V"]]


def head_logits(hidden: Float[Array, "B T D"], kernel: Float[Array, "V D"]) -> Float[Array, "B T V"]:
    """hidden @ kernel.T, accumulated in float32."""
    return jnp.einsum("btd,vd->btv", hidden, kernel, preferred_element_type=jnp.float32)


def token_logp(
    hidden: Float[Array, "B T D"],
    kernel: Float[Array, "V D"],
    tokens: Int[Array, "B T"],
    temperature: Float[Array, ""] | float = 1.0,
    *,
    chunk_tokens: int = 8192,
    entropy_gradient: bool = False,
    logits: Head = head_logits,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """log p(tokens[:, t] | tokens[:, :t]) and the entropy of that distribution, in nats, float32.

    Shifted by one (see `shift`, the only place where that happens): both results at t refer to `tokens[:, t]`, and
    are 0 at t = 0. `hidden` is the model's output (final norm applied), `kernel` the head, `logits` their product in
    float32. Logits are divided by `temperature`, which may be traced; this gives the sampler's distribution before
    top-k, top-p and min-p. The head runs over chunks of T of about `chunk_tokens` tokens (all rows and devices
    together), each recomputed in the backward pass. The entropy has a gradient only if `entropy_gradient`.
    """
    rows, length, width = hidden.shape
    targets = jnp.roll(tokens, -1, axis=1)
    count = max(1, math.ceil(rows * length / chunk_tokens))
    size = math.ceil(length / count)
    count = math.ceil(length / size)
    head = functools.partial(_chunk_logp, logits, kernel, 1.0 / temperature, entropy_gradient)
    if count == 1:
        logp, entropy = head((hidden, targets))
    else:
        padding = count * size - length
        hidden = jnp.pad(hidden, ((0, 0), (0, padding), (0, 0)))
        targets = jnp.pad(targets, ((0, 0), (0, padding)))
        chunks = (
            hidden.reshape(rows, count, size, width).swapaxes(0, 1),
            targets.reshape(rows, count, size).swapaxes(0, 1),
        )
        logp, entropy = (
            x.swapaxes(0, 1).reshape(rows, count * size)[:, :length] for x in jax.lax.map(jax.checkpoint(head), chunks)
        )
    return shift(logp), shift(entropy)


def shift(outputs: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """The output after token t - 1, moved to t: results then refer to `tokens[:, t]`; 0 at t = 0."""
    return jnp.concatenate([jnp.zeros_like(outputs[:, :1]), outputs[:, :-1]], axis=1)


def _chunk_logp(head, kernel, inverse_temperature, entropy_gradient, chunk):
    hidden, targets = chunk
    kernel = kernel.astype(hidden.dtype)  # inside the chunk, so that the chunks' gradients are summed in float32
    logits = head(hidden, kernel) * inverse_temperature
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    # A comparison and a sum instead of a gather: it fuses, works on a sharded vocabulary, and its gradient has no
    # scatter.
    is_target = jnp.arange(kernel.shape[0], dtype=targets.dtype)[None, None, :] == targets[..., None]
    logp = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1) - normalizer
    if not entropy_gradient:
        logits, normalizer = jax.lax.stop_gradient((logits, normalizer))
    entropy = normalizer - jnp.sum(jnp.exp(logits - normalizer[..., None]) * logits, axis=-1)
    return logp, entropy

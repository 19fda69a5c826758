"""The device programs of sampling, each a pure function: prefill prompts, seat rows, decode a chunk, and small ones."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Bool, Float, Int

from jaxrl.sampling.truncation import truncate
from jaxrl.sampling.types import Slots
from models.cache import KVCache, init_cache
from models.cpu import dot_by_rows
from models.params import Params, head_kernel
from models.qwen2 import Qwen2

# Entries of a stretch of the vocabulary in the two races of a draw, or the largest power of two that divides both.
STRETCH = 128


def _logits(model: Qwen2, params: Params, hidden: Float[Array, "B D"]) -> Float[Array, "B V"]:
    kernel = head_kernel(params, model.config).astype(hidden.dtype)
    if model.row_unit:
        logits = dot_by_rows(model.row_unit, hidden, kernel, preferred_element_type=jnp.float32)
        return with_layout_constraint(logits, Layout((0, 1)))  # turned once, not by each of their uses
    return jax.lax.dot_general(hidden, kernel, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)


def draw(
    logits: Float[Array, "B V"], slots: Slots, truncated: bool
) -> tuple[Int[Array, " B"], Float[Array, "B 2"], Bool[Array, " B"]]:
    """One token a row, its log-probability at the row's temperature (before, after truncation), and if logits broke.

    The exponential race: argmax of weight / e with e ~ Exp(1) picks an entry with probability proportional to its
    weight. It is the Gumbel-max trick (Gumbel 1954) with one logarithm less. It is run twice, first between stretches
    of the vocabulary, then inside the one that won, so that a token costs V / W + W random numbers instead of V.
    Greedy rows take the largest logit the same way; of equal ones the first. Randomness: threefry at the row's key and
    position, so a draw does not know its slot.
    """
    rows, vocabulary = logits.shape
    width = math.gcd(vocabulary, STRETCH)
    greedy = slots.temperature == 0
    scaled = logits / jnp.where(greedy, 1.0, slots.temperature)[:, None]

    def weigh(x):
        """Largest entry and mass of each stretch, largest of all, and the logarithm of the sum of all."""
        best = jnp.max(x, axis=2)
        top = jnp.max(best, axis=1)
        mass = jnp.sum(jnp.exp(x - top[:, None, None]), axis=2)
        return best, mass, top, jnp.log(jnp.sum(mass, axis=1)) + top

    # Weighed apart, for the truncated logits keep the values that they leave, the largest always among them: after this
    # line nothing needs the others, and an array of the size of the logits less is held.
    *_, normalizer = weigh(scaled.reshape(rows, vocabulary // width, width))
    kept = truncate(scaled, slots.top_k, slots.top_p, slots.min_p) if truncated else scaled
    kept = kept.reshape(rows, vocabulary // width, width)
    best, mass, top, left = weigh(kept)

    def times(key, position):
        key = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), position)
        # All 32 bits: with the 23 of `random.uniform`, e = 0 would hand 1e-7 of the draws to an entry of no weight.
        bits = jax.random.bits(key, (vocabulary // width + width,), jnp.uint32)
        uniform = (bits.astype(jnp.float32) + 0.5) * 2.0**-32
        return -jnp.log1p(-jnp.minimum(uniform, 1 - 2.0**-24))

    between, inside = jnp.split(jax.vmap(times)(slots.key, slots.position + 1), [vocabulary // width], axis=1)
    stretch = jnp.argmax(jnp.where(greedy[:, None], best, mass / between), axis=1)
    kept = jnp.take_along_axis(kept, stretch[:, None, None], axis=1)[:, 0]
    entry = jnp.argmax(jnp.where(greedy[:, None], kept, jnp.exp(kept - top[:, None]) / inside), axis=1)
    logp = jnp.take_along_axis(kept, entry[:, None], axis=1) - jnp.stack([normalizer, left], axis=1)
    return (stretch * width + entry).astype(jnp.int32), logp, ~(jnp.isfinite(normalizer) & jnp.isfinite(left))


def _advance(slots: Slots, token, broken, eos: Int[Array, " E"]) -> Slots:
    """Slots after a draw; rows that were done stay as they are."""
    live = ~slots.done
    produced = slots.produced + live.astype(jnp.int32)
    finished = jnp.any(token[:, None] == eos[None], axis=1) & ~broken
    stop = finished | broken | (produced >= slots.limit)
    return slots._replace(
        token=jnp.where(live, token, slots.token),
        position=slots.position + live.astype(jnp.int32),
        produced=produced,
        done=slots.done | stop,
        finished=slots.finished | (live & finished),
        broken=slots.broken | (live & broken),
    )


def prefill(
    model: Qwen2, params: Params, tokens: Int[Array, "P L"], lengths: Int[Array, " P"]
) -> tuple[KVCache, Float[Array, "P V"]]:
    """The cache of whole prompts and the logits after the last token of each."""
    rows, length = tokens.shape
    cache = init_cache(model.config, rows, length, model.dtype)
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], tokens.shape)
    hidden, cache = model.apply({"params": params}, tokens, positions, lengths, cache)
    last = hidden[jnp.arange(rows), lengths - 1]
    return cache, _logits(model, params, last)


def seat(
    cache: KVCache,
    slots: Slots,
    prompts: KVCache,
    logits: Float[Array, "P V"],
    source: Int[Array, " B"],
    target: Int[Array, " B"],
    new: Slots,
    coordinates: Int[Array, "B 2"],
    key: Array,
    eos: Int[Array, " E"],
    *,
    truncated: bool,
) -> tuple[KVCache, Slots, Int[Array, " B"], Float[Array, "B 2"]]:
    """Copy prefilled prompt source[i] into slot target[i] and draw the row's own first token.

    new: the rows' settings, with `position` at the last prompt token; coordinates: prompt and sample index.
    A target beyond the last slot seats nothing.
    """

    def row_key(pair):
        return jax.random.key_data(jax.random.fold_in(jax.random.fold_in(key, pair[0]), pair[1]))

    new = new._replace(key=jax.vmap(row_key)(coordinates))
    token, logp, broken = draw(logits[source], new, truncated)
    new = _advance(new, token, broken, eos)

    def copy(old, prompt):
        blocks = min(prompt.shape[2], old.shape[2])  # a prompt's last block may be padding that no row reaches
        return old.at[target, :, :blocks].set(prompt[source][:, :, :blocks], mode="drop", unique_indices=True)

    cache = jax.tree.map(copy, cache, prompts)
    slots = jax.tree.map(lambda old, row: old.at[target].set(row, mode="drop", unique_indices=True), slots, new)
    return cache, slots, token, logp


def decode(
    model: Qwen2,
    params: Params,
    cache: KVCache,
    slots: Slots,
    steps: Int[Array, ""],
    eos: Int[Array, " E"],
    *,
    chunk: int,
    truncated: bool,
) -> tuple[KVCache, Slots, Int[Array, "B chunk"], Float[Array, "B chunk 2"]]:
    """Up to `steps` (at most `chunk`) tokens for every live row; ends early when all rows are done.

    Returned tokens and logp of a row are valid for as many columns as its `produced` grew.
    """

    def step(carry):
        index, cache, slots, tokens, logps = carry
        lengths = slots.position + 1
        hidden, cache = model.apply({"params": params}, slots.token[:, None], slots.position[:, None], lengths, cache)
        token, logp, broken = draw(_logits(model, params, hidden[:, 0]), slots, truncated)
        tokens = jax.lax.dynamic_update_slice(tokens, token[:, None], (0, index))
        logps = jax.lax.dynamic_update_slice(logps, logp[:, None], (0, index, 0))
        return index + 1, cache, _advance(slots, token, broken, eos), tokens, logps

    def more(carry):
        index, _, slots, _, _ = carry
        return (index < steps) & ~jnp.all(slots.done)

    rows = slots.token.shape[0]
    outputs = jnp.zeros((rows, chunk), jnp.int32), jnp.zeros((rows, chunk, 2), jnp.float32)
    _, cache, slots, *outputs = jax.lax.while_loop(more, step, (jnp.int32(0), cache, slots, *outputs))
    return cache, slots, *outputs


def retire(slots: Slots, stopped: Bool[Array, " B"]) -> Slots:
    """The slots with these rows done: the host has found a stop string in them."""
    return slots._replace(done=slots.done | stopped)


def grow(cache: KVCache, blocks: int) -> KVCache:
    """The same cache with room for `blocks` blocks."""

    def longer(x):
        more = jnp.zeros((*x.shape[:2], blocks - x.shape[2], *x.shape[3:]), x.dtype)
        # Without the barrier the compiler makes a pad of it, which on a CPU is a loop over single elements.
        return jnp.concatenate([x, jax.lax.optimization_barrier(more)], axis=2)

    return jax.tree.map(longer, cache)


def shorten(cache: KVCache, blocks: int) -> KVCache:
    """The first `blocks` blocks of a cache."""
    return jax.tree.map(lambda x: x[:, :, :blocks], cache)


def move(
    cache: KVCache,
    slots: Slots,
    other_cache: KVCache,
    other_slots: Slots,
    source: Int[Array, " B"],
    target: Int[Array, " B"],
) -> tuple[KVCache, Slots]:
    """Copy row source[i] of the other batch into slot target[i]; targets beyond the last are dropped."""

    def copy(old, other):
        return old.at[target].set(other[source], mode="drop", unique_indices=True)

    return jax.tree.map(copy, cache, other_cache), jax.tree.map(copy, slots, other_slots)


def keep(tree: Any, source: Int[Array, " B"]) -> Any:
    """Rows source[i] of every array, in this order; the others are left behind."""
    return jax.tree.map(lambda x: x[source], tree)

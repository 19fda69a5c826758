"""The device programs of sampling, pure functions: prefill prompts, insert rows, decode a chunk, move rows."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl.sampling.truncation import truncate
from jaxrl.sampling.types import Slots
from models.cache import KVCache
from models.params import Params, head_kernel
from models.qwen2 import Qwen2

# Entries of a vocabulary block of `sample_token`; the largest power of two that divides both is used.
VOCABULARY_BLOCK = 128


def sample_token(
    logits: Float[Array, "B V"], slots: Slots, truncated: bool
) -> tuple[Int[Array, " B"], Float[Array, "B 2"], Bool[Array, " B"]]:
    """One token per row, its log-probability before and after truncation, and whether the row's logits are not finite.

    truncated: whether any row uses top-k, top-p or min-p; if not, the truncation is left out of the program.

    Gumbel-max (Gumbel 1954) in exponential form, in two levels: argmax of weight / e with e ~ Exp(1) selects an entry
    with probability proportional to its weight. The first level selects a block of the vocabulary, the second an entry
    of it, so a token costs V / W + W random numbers instead of V. Greedy rows take the largest logit, the first of
    equal ones. Log-probabilities are at the row's temperature. Randomness: threefry at the row's key and position, so a
    token is independent of the slot.
    """
    rows, vocabulary = logits.shape
    width = math.gcd(vocabulary, VOCABULARY_BLOCK)
    greedy = slots.temperature == 0
    scaled = logits / jnp.where(greedy, 1.0, slots.temperature)[:, None]

    def reduce_blocks(x):
        """Maximum and mass of each block, the maximum of all, and the logsumexp of all."""
        block_max = jnp.max(x, axis=2)
        top = jnp.max(block_max, axis=1)
        mass = jnp.sum(jnp.exp(x - top[:, None, None]), axis=2)
        return block_max, mass, top, jnp.log(jnp.sum(mass, axis=1)) + top

    # The normalizer before truncation is computed first, so that the untruncated logits are not needed afterwards: this
    # saves an array of their size. Truncation changes no logit that it keeps, so both normalizers fit the kept logits.
    *_, normalizer = reduce_blocks(scaled.reshape(rows, vocabulary // width, width))
    kept = truncate(scaled, slots.top_k, slots.top_p, slots.min_p) if truncated else scaled
    kept = kept.reshape(rows, vocabulary // width, width)
    block_max, mass, top, truncated_normalizer = reduce_blocks(kept)

    def exponentials(key, position):
        key = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), position)
        # All 32 bits: with the 23 of `random.uniform`, e would be 0 in 1e-7 of the samples and select any entry.
        bits = jax.random.bits(key, (vocabulary // width + width,), jnp.uint32)
        uniform = (bits.astype(jnp.float32) + 0.5) * 2.0**-32
        return -jnp.log1p(-jnp.minimum(uniform, 1 - 2.0**-24))

    noise = jax.vmap(exponentials)(slots.key, slots.position + 1)
    between, inside = jnp.split(noise, [vocabulary // width], axis=1)
    block = jnp.argmax(jnp.where(greedy[:, None], block_max, mass / between), axis=1)
    kept = jnp.take_along_axis(kept, block[:, None, None], axis=1)[:, 0]
    entry = jnp.argmax(jnp.where(greedy[:, None], kept, jnp.exp(kept - top[:, None]) / inside), axis=1)
    logp = jnp.take_along_axis(kept, entry[:, None], axis=1) - jnp.stack([normalizer, truncated_normalizer], axis=1)
    broken = ~(jnp.isfinite(normalizer) & jnp.isfinite(truncated_normalizer))
    return (block * width + entry).astype(jnp.int32), logp, broken


def _advance(slots: Slots, token, broken, eos: Int[Array, " E"]) -> Slots:
    """Slots after sampling `token`; rows that are done do not change."""
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


def _logits(model: Qwen2, params: Params, hidden: Float[Array, "B D"]) -> Float[Array, "B V"]:
    return model.kernels.logits(hidden, head_kernel(params, model.config).astype(hidden.dtype))


def prefill(
    model: Qwen2, params: Params, tokens: Int[Array, "P L"], lengths: Int[Array, " P"]
) -> tuple[KVCache, Float[Array, "P V"]]:
    """The cache of right-padded prompts of `lengths` tokens, and the logits after the last token of each."""
    rows, length = tokens.shape
    cache = model.kernels.cache.init(model.config, rows, length, model.dtype)
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], tokens.shape)
    hidden, cache = model.apply({"params": params}, tokens, positions, lengths, cache)
    last = hidden[jnp.arange(rows), lengths - 1]
    return cache, _logits(model, params, last)  # pyright: ignore[reportReturnType]


def insert(
    model: Qwen2,
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
    """Copy prefilled prompt source[i] into slot target[i] and sample the row's first token.

    logits: from `prefill`. new: the rows' initial slots (see `initial_slots`). coordinates: prompt and sample index of
    each row. key: of the request's seed and step. A target beyond the last slot is dropped. Returns the cache, the
    slots, and for each inserted row its first token and that token's log-probability before and after truncation.
    """

    def row_key(pair):
        return jax.random.key_data(jax.random.fold_in(jax.random.fold_in(key, pair[0]), pair[1]))

    new = new._replace(key=jax.vmap(row_key)(coordinates))
    token, logp, broken = sample_token(logits[source], new, truncated)
    new = _advance(new, token, broken, eos)
    cache = model.kernels.cache.insert(cache, prompts, source, target)
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

    Returns the cache, the slots, tokens, and log-probabilities before and after truncation. Of a row's columns, as many
    are valid as its `produced` grew.
    """

    def step(carry):
        index, cache, slots, tokens, logps = carry
        lengths = slots.position + 1
        hidden, cache = model.apply({"params": params}, slots.token[:, None], slots.position[:, None], lengths, cache)
        token, logp, broken = sample_token(_logits(model, params, hidden[:, 0]), slots, truncated)
        tokens = jax.lax.dynamic_update_slice(tokens, token[:, None], (0, index))
        logps = jax.lax.dynamic_update_slice(logps, logp[:, None], (0, index, 0))
        return index + 1, cache, _advance(slots, token, broken, eos), tokens, logps

    def more(carry):
        index, _, slots, _, _ = carry
        return (index < steps) & ~jnp.all(slots.done)

    rows = slots.token.shape[0]
    outputs = jnp.zeros((rows, chunk), jnp.int32), jnp.zeros((rows, chunk, 2), jnp.float32)
    _, cache, slots, tokens, logp = jax.lax.while_loop(more, step, (jnp.int32(0), cache, slots, *outputs))  # pyright: ignore[reportAssignmentType]
    return cache, slots, tokens, logp


def stop(slots: Slots, stopped: Bool[Array, " B"]) -> Slots:
    """The slots with these rows done: the host has found a stop string in them."""
    return slots._replace(done=slots.done | stopped)


def move_rows(
    cache: KVCache,
    slots: Slots,
    other_cache: KVCache,
    other_slots: Slots,
    source: Int[Array, " B"],
    target: Int[Array, " B"],
) -> tuple[KVCache, Slots]:
    """Copy row source[i] of the other batch into slot target[i]; a target beyond the last slot is dropped."""

    def copy(old, other):
        return old.at[target].set(other[source], mode="drop", unique_indices=True)

    return jax.tree.map(copy, cache, other_cache), jax.tree.map(copy, slots, other_slots)


def gather_rows(tree: Any, source: Int[Array, " B"]) -> Any:
    """Rows source[i] of every array, in this order."""
    return jax.tree.map(lambda x: x[source], tree)

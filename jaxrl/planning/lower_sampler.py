"""Lowers the programs of the sampler from shapes: for inspection and memory planning, without allocating arrays."""

from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxrl.sampling.sampler import Sampler, abstract_weights
from jaxrl.sampling.types import initial_slots


def lower_sampler(
    sampler: Sampler, cache_length: int, prompt_length: int, truncated: bool
) -> dict[str, jax.stages.Lowered]:
    """Lowers `prefill`, `insert` and `decode` of a sampler. Its mesh may contain compile-only devices.

    cache_length, prompt_length: positions. truncated: with top-k, top-p and min-p.
    """
    programs, total = sampler.programs, sampler.rows * sampler.devices
    prompts = sampler.prompt_rows * sampler.devices
    everywhere, by_row = programs.replicated, programs.rows

    def shape(size: tuple[int, ...], dtype: Any, sharding: NamedSharding = by_row) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(size, dtype, sharding=sharding)

    def sharded(tree: Any, sharding: NamedSharding) -> Any:
        return jax.tree.map(lambda x: shape(x.shape, x.dtype, sharding), tree)

    params = jax.tree.map(
        lambda x, sharding: shape(x.shape, x.dtype, sharding), abstract_weights(sampler.model), programs.weights
    )
    cache, prefilled = (
        sharded(
            jax.eval_shape(partial(programs.layout.init, sampler.config, count, length, sampler.dtype)), programs.cache
        )
        for count, length in ((total, cache_length), (prompts, prompt_length))
    )
    settings = dict.fromkeys(("max_new_tokens", "top_k"), np.zeros(total, np.int32))
    settings |= dict.fromkeys(("temperature", "top_p", "min_p"), np.zeros(total, np.float32))
    slots = sharded(initial_slots(settings, np.ones(total, np.int32)), by_row)
    lengths, row = shape((prompts,), np.int32), shape((total,), np.int32)
    logits, pairs = shape((prompts, sampler.config.vocab_size), np.float32), shape((total, 2), np.int32)
    key = sharded(jax.eval_shape(partial(jax.random.key, impl="threefry2x32"), 0), everywhere)
    eos, steps = shape((2,), np.int32, everywhere), shape((), np.int32, everywhere)
    return {
        "prefill": programs.prefill.lower(params, shape((prompts, prompt_length), np.int32), lengths),
        "insert": programs.insert[truncated].lower(cache, slots, prefilled, logits, row, row, slots, pairs, key, eos),
        "decode": programs.decode[truncated].lower(params, cache, slots, steps, eos),
    }

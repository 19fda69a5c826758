"""The sampler's programs from shapes alone: to read them or to plan their memory, nothing is allocated or run."""

from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxrl.sampling.engine import unseated
from jaxrl.sampling.sampler import Sampler, abstract_weights
from models.cache import init_cache


def lower(sampler: Sampler, cache_length: int, prompt_length: int, truncated: bool) -> dict[str, jax.stages.Lowered]:
    """`prefill`, `seat` and `decode` of a sampler, whose mesh may be of devices that one can only compile for.

    cache_length and prompt_length: positions. truncated: with top-k, top-p and min-p.
    """
    programs, total = sampler.programs, sampler.rows * sampler.devices
    prompts = sampler.prompt_rows * sampler.devices
    whole, rows = programs.whole, programs.rows

    def shape(size: tuple[int, ...], kind: Any, place: NamedSharding = rows) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(size, kind, sharding=place)

    def placed(tree: Any, place: NamedSharding) -> Any:
        return jax.tree.map(lambda x: shape(x.shape, x.dtype, place), tree)

    params = jax.tree.map(
        lambda x, place: shape(x.shape, x.dtype, place), abstract_weights(sampler.model), programs.weights
    )
    cache, prefilled = (
        placed(jax.eval_shape(partial(init_cache, sampler.config, count, length, sampler.dtype)), programs.cache)
        for count, length in ((total, cache_length), (prompts, prompt_length))
    )
    settings = dict.fromkeys(("max_new_tokens", "top_k"), np.zeros(total, np.int32))
    settings |= dict.fromkeys(("temperature", "top_p", "min_p"), np.zeros(total, np.float32))
    slots = placed(unseated(settings, np.ones(total, np.int32)), rows)
    lengths, row = shape((prompts,), np.int32), shape((total,), np.int32)
    logits, pairs = shape((prompts, sampler.config.vocab_size), np.float32), shape((total, 2), np.int32)
    key = placed(jax.eval_shape(partial(jax.random.key, impl="threefry2x32"), 0), whole)
    eos, steps = shape((2,), np.int32, whole), shape((), np.int32, whole)
    return {
        "prefill": programs.prefill.lower(params, shape((prompts, prompt_length), np.int32), lengths),
        "seat": programs.seat[truncated].lower(cache, slots, prefilled, logits, row, row, slots, pairs, key, eos),
        "decode": programs.decode[truncated].lower(params, cache, slots, steps, eos),
    }

"""The compiled programs: how often they compile, what they copy, and what they run on."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.small_samplers import CONFIG, PROMPTS, by_name, mesh, run

from jaxrl.planning.lower_sampler import lower_sampler
from jaxrl.sampling import Coordinates, Sampler, SamplingSpec
from jaxrl.sampling.sampler import abstract_weights
from jaxrl.sampling.types import initial_slots
from models.backends import decode_kernels


def test_one_program_per_length_and_none_for_other_prompts_of_the_same_buckets(params):
    """Prompts of unequal lengths, then others of the same buckets: nothing recompiles."""
    sampler = Sampler(CONFIG, mesh(1), rows=16, chunk=8)
    weights, coordinates = sampler.decode_weights(params), Coordinates(1, 1, np.arange(6), np.arange(4))
    sampler.sample(weights, PROMPTS, 4, coordinates, SamplingSpec(200, ()))
    before = sampler.traces
    assert before["prefill"] <= len(sampler.prompt_lengths) and before["grow"] <= len(sampler.cache_lengths)
    assert before["decode"] <= len(sampler.cache_lengths) * len(sampler.batch_sizes)
    sampler.sample(weights, [prompt[1:] or prompt for prompt in PROMPTS], 4, coordinates, SamplingSpec(200, ()))
    assert sampler.traces == before


def test_few_shapes_compile_half_as_many_decode_programs_and_change_no_number(params):
    few, many = (Sampler(CONFIG, mesh(1), rows=32, chunk=8, few_shapes=value) for value in (True, False))
    assert few.cache_lengths == (192, 320) and many.cache_lengths == (128, 192, 256, 320)
    arguments = Coordinates(1, 1, np.arange(6), np.arange(6)), SamplingSpec(240, ())
    short, long = (sampler.sample(sampler.decode_weights(params), PROMPTS, 6, *arguments) for sampler in (few, many))
    for mine, theirs in zip(short[:-1], long[:-1], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert 2 * few.traces["decode"] <= many.traces["decode"] and sum(few.traces.values()) < sum(many.traces.values())


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_a_decode_step_updates_the_cache_in_place_without_collectives_and_computes_each_cosine_once(platform):
    sampler = Sampler(CONFIG, mesh(4), rows=16, kernels=decode_kernels(platform))
    programs, rows = sampler.programs, np.zeros(64, np.int32)
    settings = dict.fromkeys(("max_new_tokens", "temperature", "top_k", "top_p", "min_p"), rows)
    settings |= {name: rows.astype(np.float32) for name in ("temperature", "top_p", "min_p")}
    arguments = (
        programs.empty_cache(256),
        programs.put(initial_slots(settings, rows)),
        np.int32(4),
        jnp.zeros(1, jnp.int32),
    )
    program = programs.decode[False].lower(abstract_weights(sampler.model), *arguments).compile()
    one_layer = 16 * 2 * 256 * 8 * 4  # bytes of one layer's keys on a device
    memory = program.memory_analysis()
    assert memory.temp_size_in_bytes < one_layer
    assert memory.alias_size_in_bytes >= 4 * one_layer
    assert not re.search("all-|collective-", program.as_text())
    assert program.as_text().count(" cosine(") == 1  # not in each fusion that uses it


@pytest.mark.parametrize("truncated", [False, True])
def test_a_decode_step_on_a_cpu_transposes_its_logits_once(truncated):
    """The head returns them as columns; they are not transposed at each use."""
    sampler = Sampler(dataclasses.replace(CONFIG, vocab_size=640), mesh(1), rows=32)
    program = lower_sampler(sampler, 128, 64, truncated)["decode"].compile()
    assert len(re.findall(r"= f32\[32,640\]\S* copy\(", program.as_text())) == 1


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_a_cache_grows_layer_by_layer_and_frees_the_old_one(samplers, plain_sampler, platform):
    programs = samplers[4].programs if platform == "cpu" else plain_sampler.programs
    layout, alive = programs.layout, []
    cache = jax.tree.map(lambda x: x + 2, programs.empty_cache(128))
    programs.grow(jax.tree.map(jnp.copy, cache), 192)  # builds the program
    grow = programs._sized["grow", 192]

    def watched(layer):
        alive.append(sum(not x.is_deleted() for x in jax.tree.leaves(cache)))
        return grow(layer)

    programs._sized["grow", 192] = watched
    grown = programs.grow(cache, 192)
    programs._sized["grow", 192] = grow
    assert alive == [4, 2]  # keys and values of each layer that is not grown yet
    assert all(x.is_deleted() for x in jax.tree.leaves(cache))
    kept = 128 // layout.block
    assert layout.length(grown) == 192
    assert [(x[:, :, :kept].min(), x[:, :, kept:].max()) for x in jax.tree.leaves(grown)] == [(2.0, 0.0)] * 4
    shrunk = programs.shrink(grown, 128)
    assert layout.length(shrunk) == 128 and all((np.asarray(x) == 2).all() for x in jax.tree.leaves(shrunk))


def test_rows_may_differ_in_settings_and_nothing_recompiles(samplers, params):
    mixed = run(samplers[1], params, temperature=np.tile([1.0, 0.0, 0.5, 2.0], 6), top_p=0.9)
    before = samplers[1].traces
    greedy = run(samplers[1], params, temperature=0.0, top_p=0.8, new=90, step=7)
    assert samplers[1].traces == before
    names = [(p, s) for p in range(6) for s in range(4)]
    for i, (_, sample) in enumerate(names):
        same = mixed.tokens[i, : mixed.lengths[i]].tolist() == greedy.tokens[i, : greedy.lengths[i]].tolist()
        assert same == (sample == 1) or (same and mixed.lengths[i] < 4)


def test_weights_may_come_from_other_devices(params, samplers, reference):
    moved = jax.device_put(params, jax.devices()[3])
    weights = samplers[1].decode_weights(moved)
    assert {leaf.sharding for leaf in jax.tree.leaves(weights)} == {samplers[1].programs.replicated}
    assert by_name(run(samplers[4], moved), range(6), range(4)) == reference


def test_a_prompt_is_prefilled_once_for_all_of_its_samples(params, monkeypatch):
    sampler, seen = Sampler(CONFIG, mesh(1), rows=16, chunk=8, slots=16), []
    prefill = sampler.programs.prefill
    monkeypatch.setattr(
        sampler.programs,
        "prefill",
        lambda weights, tokens, lengths: seen.append(lengths) or prefill(weights, tokens, lengths),
    )
    run(sampler, params, samples=range(16))
    rows = np.concatenate(seen)
    expected = sorted(len(prompt) for prompt in PROMPTS)  # padding rows have one token, and so has one prompt
    assert sorted(rows[rows > 1].tolist()) == [n for n in expected if n > 1]


def test_rows_are_distributed_evenly_over_devices(params):
    sampler, seen = Sampler(CONFIG, mesh(4), rows=16, chunk=8), []
    decode = sampler.programs.decode[False]
    sampler.programs.decode[False] = lambda weights, cache, slots, *rest: (
        seen.append(np.asarray(~slots.done).reshape(4, 16).sum(axis=1)) or decode(weights, cache, slots, *rest)
    )
    run(sampler, params, eos_ids=())
    assert seen[0].tolist() == [6, 6, 6, 6]

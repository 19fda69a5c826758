"""Requests and sizes: defaults, bounds, and errors before anything compiles."""

import dataclasses

import numpy as np
import pytest
from fixtures.small_samplers import CONFIG, EOS, MANY_WORDS, by_name, mesh, run

from jaxrl.sampling import Coordinates, Sampler, SamplingSpec
from jaxrl.sampling.sampler import default_batch_sizes
from models.backends import decode_kernels


@pytest.mark.parametrize(
    "rows, platform, words, sizes",
    [(128, "gpu", 152064, (16, 32, 64, 128)), (24, "gpu", 152064, (24,)), (32, "cpu", 640, (8, 16, 32)),
     (32, "cpu", 300, (16, 32)), (32, "cpu", 41, (32,)), (96, "cpu", 640, (24, 48, 96))],
)  # fmt: skip
def test_batch_sizes_are_halves_that_save_time_and_keep_the_numbers(rows, platform, words, sizes):
    config = dataclasses.replace(MANY_WORDS, vocab_size=words)
    assert default_batch_sizes(decode_kernels(platform), config, rows, 256) == sizes
    assert default_batch_sizes(decode_kernels(platform), config, rows, 256, few=True) == sizes[::-2][::-1]


def test_memory_bounds_the_batches_by_their_longest_caches(params, reference):
    one = 2 * 2 * 320 * 2 * 8 * 4 * 32  # keys and values, layers, positions, heads, head size, bytes, rows
    found = {}
    with pytest.raises(ValueError, match=r"one batch of 32 rows .* takes 2,621,440 bytes .* got memory = 2,621,439"):
        Sampler(CONFIG, mesh(1), rows=32, chunk=16, memory=one - 1)
    for memory in (0, 2 * one - 1, 2 * one):
        sampler = Sampler(CONFIG, mesh(1), rows=32, chunk=16, memory=memory)
        found[memory] = sampler.batches
        assert by_name(run(sampler, params, samples=range(8), new=20), range(6), range(8)).keys() > reference.keys()
    assert found == {0: 1, 2 * one - 1: 1, 2 * one: 2} and Sampler(CONFIG, mesh(1), rows=32).batches is None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"prompts": []}, "prompts: expected at least one"),
        ({"prompts": [[1], []]}, "prompt 1 is empty"),
        ({"prompts": [[1] * 321, [2]]}, "longest cache of 320"),
        ({"prompts": [[1] * 300, [2]]}, "together more than longest = 320"),
        ({"prompts": [[41], [2]]}, "outside the vocabulary"),
        ({"top_p": 0.0}, r"top_p: expected a value in \(0, 1\]"),
        ({"top_p": 1.5}, "top_p"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": 1e-40}, r"0 \(greedy\) or at least"),
        ({"temperature": [1.0, 0.5, 0.2]}, "one value or one per row"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 1.9}, "max_new_tokens: expected an integer up to 2147483647, got 1.9"),
        ({"top_k": 0.5}, "top_k: expected an integer"),
        ({"top_k": np.array([1, 2**32, 1, 1])}, "top_k: expected a value in"),
        ({"top_k": 2**40}, "top_k: expected a value in"),
        ({"top_k": 2**70}, "top_k: expected an integer"),
        ({"temperature": "hot"}, "temperature: expected a number"),
        ({"eos_ids": (99,)}, "eos_ids"),
        ({"eos_ids": 3}, "eos_ids: expected a sequence of token ids"),
        ({"prompt": [0]}, "coordinates"),
        ({"prompt": [0, 2**32]}, "expected each prompt to be an integer from 0 to 2147483647"),
        ({"prompt": [0, -1]}, "expected each prompt to be an integer"),
    ],
)
def test_a_bad_request_fails_before_anything_compiles(without_type_checks, change, message):
    sampler = Sampler(CONFIG, mesh(1), rows=16)
    fields = {"prompts": [[1], [2]], "prompt": [0, 1], "max_new_tokens": 90, "eos_ids": EOS} | change
    prompts, prompt = fields.pop("prompts"), fields.pop("prompt")
    with pytest.raises(ValueError, match=message):
        sampler.sample({}, prompts, 2, Coordinates(0, 0, np.array(prompt), np.arange(2)), SamplingSpec(**fields))
    assert sampler.traces == {}


@pytest.mark.parametrize(
    "settings, message",
    [
        *(({name: value}, f"{name}: expected an integer of at least 1, got {value}")
          for name in ("rows", "chunk", "longest", "prompt_rows") for value in (0, -1, 1.5)),
        ({"longest": 321}, "max_position_embeddings, 320, got 321"),
        ({"memory": -5}, "memory: expected at least 0 bytes, got -5"),
        ({"slots": 0}, "slots: expected at least one batch of 1 rows on each of 4 devices, 4 in all, got 0"),
        ({"slots": 3}, "got 3; raise slots"),
        ({"slots": 127, "rows": 32}, "one batch of 32 rows on each of 4 devices, 128 in all, got 127"),
        ({"cache_lengths": ()}, "cache_lengths: expected ascending lengths"),
        ({"prompt_lengths": (64, 96)}, "prompt_lengths: expected ascending lengths .* up to longest = 320"),
    ],
)  # fmt: skip
def test_impossible_sizes_are_rejected(without_type_checks, settings, message):
    with pytest.raises(ValueError, match=message):
        Sampler(CONFIG, mesh(4), **settings)


def test_slots_bound_the_default_rows(params):
    found = {slots: Sampler(CONFIG, mesh(4), slots=slots) for slots in (4, 67, 128, 300)}
    assert {slots: (sampler.rows, sampler.batches) for slots, sampler in found.items()} == {
        4: (1, 1),
        67: (16, 1),
        128: (32, 1),
        300: (32, 2),
    }


def test_a_row_may_fill_the_longest_cache(params):
    sampler = Sampler(CONFIG, mesh(1), rows=16, chunk=8)
    weights, coordinates = sampler.decode_weights(params), Coordinates(0, 0, np.arange(1), np.arange(2))
    out = sampler.sample(weights, [[1] * 319], 2, coordinates, SamplingSpec(1, ()))
    assert (out.lengths == 1).all() and not out.finished.any()
    with pytest.raises(ValueError, match="together more than longest = 320"):
        sampler.sample(weights, [[1] * 320], 2, coordinates, SamplingSpec(1, ()))

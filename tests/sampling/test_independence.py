"""Law 1 (coordinates, not history): a completion depends on weights, prompt and coordinates only."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.small_samplers import CONFIG, MANY_WORDS, PROMPTS_OF_MANY, by_name, mesh, run

from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.learning.state import decode_shardings
from jaxrl.sampling import Coordinates, Sampler, SamplingSpec
from models.backends import decode_kernels
from models.kernels import Kernels
from models.qwen2 import Qwen2


@pytest.mark.check
def test_a_completion_is_independent_of_its_neighbours_and_slot(samplers, params, reference):
    for prompts, samples in [((4,), (0,)), ((5, 2, 0), (3, 1)), ((3, 4), (2,))]:
        part = by_name(run(samplers[1], params, prompts, samples), prompts, samples)
        assert part == {name: reference[name] for name in part}


def test_a_completion_is_independent_of_the_number_of_devices(samplers, params, reference):
    assert by_name(run(samplers[4], params), range(6), range(4)) == reference


def test_weights_sharded_over_devices_sample_the_same_tokens(params):
    """Two groups of two devices, each with half of the layers and the vocabulary: only the order of sums differs."""
    config, tensor_mesh = (
        dataclasses.replace(CONFIG, vocab_size=42),
        make_mesh(MeshSpec(data=2, tensor=2), jax.devices()[:4]),
    )
    table = params["embed"]["embedding"]
    params = {**params, "embed": {"embedding": jnp.concatenate([table, table[:1]])}}
    sampler = Sampler(config, tensor_mesh, weight_shardings=decode_shardings(config, tensor_mesh), rows=16, chunk=8)
    assert sampler.devices == 2
    weights = sampler.decode_weights(params)
    halves = {(24, 32): weights["layers_0"]["mlp"]["up"]["kernel"], (21, 32): weights["embed"]["embedding"]}
    for half, matrix in halves.items():
        assert {shard.data.shape for shard in matrix.addressable_shards} == {half}
    replicated, sharded = (
        by_name(run(one, params), range(6), range(4)) for one in (Sampler(config, mesh(1), rows=16, chunk=8), sampler)
    )
    for name, (tokens, logp, finished) in replicated.items():
        assert sharded[name][0] == tokens and sharded[name][2] == finished
        other = np.frombuffer(sharded[name][1], np.float32)
        np.testing.assert_allclose(other, np.frombuffer(logp, np.float32), atol=1e-4)


@pytest.mark.check
def test_a_completion_is_independent_of_refill_order_and_number_of_slots(params, reference):
    sampler = Sampler(CONFIG, mesh(1), rows=16, chunk=5, slots=16)
    assert by_name(run(sampler, params), range(6), range(4)) == reference
    assert (
        by_name(run(sampler, params, reversed(range(6)), (2, 0, 3, 1)), reversed(range(6)), (2, 0, 3, 1)) == reference
    )


def test_a_completion_is_independent_of_the_device_that_refills_its_slot(params, reference):
    """72 rows over 4 x 16 slots: some rows wait, and a device without rows takes those of another."""
    sampler = Sampler(CONFIG, mesh(4), rows=16, chunk=8, slots=64)
    sampled = by_name(run(sampler, params, samples=range(12)), range(6), range(12))
    assert {name: sampled[name] for name in reference} == reference


@pytest.mark.parametrize("devices", [1, 4])
def test_no_empty_batch_is_decoded_when_all_rows_end_at_once(params, devices):
    """40 rows over two batches of 16 slots: both become empty at once, and the queue refills only one."""
    sampler = Sampler(CONFIG, mesh(devices), rows=16, slots=32 * devices)
    total = 40 * devices
    coordinates = Coordinates(0, 0, np.arange(total), np.arange(1))
    out = sampler.sample(sampler.decode_weights(params), [[1]] * total, 1, coordinates, SamplingSpec(2, ()))
    assert sampler.batches == 2 and (out.lengths == 2).all()


def test_a_truncated_neighbour_changes_nothing(samplers, params, reference):
    """If one row uses top-k, top-p or min-p, all rows run in the program with truncation."""
    mixed = run(samplers[1], params, top_k=np.tile([0, 0, 3, 0], 6), top_p=np.tile([1, 1, 1, 0.4], 6))
    sampled = by_name(mixed, range(6), range(4))
    same = {name for name in reference if sampled[name] == reference[name]}
    assert same >= {name for name in reference if name[1] < 2} and len(same) < 16


def test_a_batch_shrinks_as_its_rows_end_and_no_bit_changes(monkeypatch):
    """Limits of 1 to 120 tokens: the last rows run alone for many steps, in a batch of each size."""
    ones = jnp.ones((1, 4), jnp.int32)
    params = nn.meta.unbox(Qwen2(MANY_WORDS).init(jax.random.key(1), ones, ones, ones[:, 0])["params"])
    params = jax.tree.map(lambda x: x * 4 if x.ndim > 1 else x, params)
    limits, sampled, shapes = np.linspace(1, 120, 64).astype(int), {}, set()
    for sizes in ((32,), (8, 16, 32)):
        sampler = Sampler(MANY_WORDS, mesh(1), rows=32, chunk=8)
        assert sampler.batch_sizes == (8, 16, 32)
        sampler.batch_sizes, decode = sizes, sampler.programs.decode[False]
        sampler.programs.decode[False] = lambda weights, cache, slots, *rest, decode=decode: (
            shapes.add(len(slots.done)) or decode(weights, cache, slots, *rest)
        )
        coordinates = Coordinates(0, 0, np.arange(4), np.arange(16))
        out = sampler.sample(sampler.decode_weights(params), PROMPTS_OF_MANY, 16, coordinates, SamplingSpec(limits, ()))
        sampled[sizes] = by_name(out, range(4), range(16)), out.occupancy
    assert sampled[32,][0] == sampled[8, 16, 32][0] and shapes == {8, 16, 32}
    assert sampled[8, 16, 32][1] > 1.1 * sampled[32,][1]


def test_a_completion_is_independent_of_the_size_of_its_batch(params):
    """Batches of 32, 64 and 96 rows, in products of 32."""
    sampled = [by_name(run(Sampler(CONFIG, mesh(1), rows=rows, chunk=16), params, samples=range(16), new=30), range(6),
                     range(16)) for rows in (32, 64, 96)]  # fmt: skip
    assert sampled[0] == sampled[1] == sampled[2]


def test_a_completion_of_a_narrow_model_is_independent_of_the_size_of_its_batch():
    """128 rows of width 32 are the smallest norm for which XLA emits the code of large arrays."""
    ones, narrow = jnp.ones((1, 4), jnp.int32), dataclasses.replace(MANY_WORDS, hidden_size=32)
    params = nn.meta.unbox(Qwen2(narrow).init(jax.random.key(1), ones, ones, ones[:, 0])["params"])
    params = jax.tree.map(lambda x: x * 6 if x.ndim > 1 else x, params)
    coordinates, sampled = Coordinates(0, 0, np.arange(4), np.arange(32)), []
    for rows in (32, 128):
        sampler = Sampler(narrow, mesh(1), rows=rows, chunk=20, slots=128)
        out = sampler.sample(sampler.decode_weights(params), PROMPTS_OF_MANY, 32, coordinates, SamplingSpec(20, ()))
        sampled.append(by_name(out, range(4), range(32)))
    assert sampled[0] == sampled[1]


def test_a_completion_is_independent_of_the_cache_length(params, reference):
    sampler = Sampler(CONFIG, mesh(1), rows=16, chunk=64, cache_lengths=(320,))
    assert by_name(run(sampler, params), range(6), range(4)) == reference


def test_a_completion_is_independent_of_the_longest_prompt_of_its_request(samplers, params):
    """A prompt of 70 tokens in a sampler of 72 positions, and in one of more."""
    alone = Sampler(CONFIG, mesh(1), rows=16, chunk=8, longest=72)
    assert (alone.prompt_lengths, samplers[1].prompt_lengths) == ((64, 96), (64, 96, 128, 192, 256, 384))
    sampled = [by_name(run(sampler, params, (2,), new=2), (2,), range(4)) for sampler in (alone, samplers[1])]
    assert sampled[0] == sampled[1]


def test_a_cache_shrinks_when_its_longest_row_has_ended_and_no_bit_changes(params):
    """One row of 200 tokens and then many of 60, over 16 slots."""
    limits, sampled, sizes = np.full(96, 60), [], []
    limits[0] = 200
    for lengths in (None, (320,)):
        sampler = Sampler(CONFIG, mesh(1), rows=16, chunk=8, slots=16, cache_lengths=lengths)
        decode, layout = sampler.programs.decode[False], sampler.programs.layout
        sampler.programs.decode[False] = lambda weights, cache, slots, *rest, decode=decode, layout=layout: (
            sizes.append(layout.length(cache)) or decode(weights, cache, slots, *rest)
        )
        prompts = (0, 3, 4, 5)
        sampled.append(by_name(run(sampler, params, prompts, range(24), limits, eos_ids=()), prompts, range(24)))
    assert sampled[0] == sampled[1]
    changes = [size for size, before in zip(sizes, [0, *sizes], strict=False) if size != before]
    assert changes == [128, 192, 256, 128, 320]


def test_samples_prompts_steps_and_seeds_differ(samplers, params, reference):
    assert len(set(reference.values())) == len(reference)
    other = by_name(run(samplers[1], params, step=3), range(6), range(4))
    assert all(other[name] != reference[name] for name in reference)


def test_kernels_for_gpus_sample_the_same_tokens(plain_sampler, params, reference):
    """Law 1 within float tolerance: other kernels, slots, batches and cache lengths give the same tokens."""
    assert type(plain_sampler.model.kernels) is Kernels
    few = Sampler(CONFIG, mesh(4), rows=4, chunk=5, slots=16, cache_lengths=(320,), kernels=decode_kernels("gpu"))
    for sampler in (plain_sampler, few):
        sampled = by_name(run(sampler, params), range(6), range(4))
        for name, (tokens, logp, finished) in reference.items():
            assert sampled[name][0] == tokens and sampled[name][2] == finished
            other = np.frombuffer(sampled[name][1], np.float32)
            np.testing.assert_allclose(other, np.frombuffer(logp, np.float32), atol=1e-4)

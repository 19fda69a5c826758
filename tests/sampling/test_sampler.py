"""Law 1 (coordinates, not history), law 3 (one model) and manners of the sampler, on tiny models."""

import dataclasses
import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.learning.state import decode_shardings
from jaxrl.planning.lower_sampler import lower
from jaxrl.sampling import Coordinates, Sampler, SamplingSpec, StopStrings
from jaxrl.sampling import decode as step
from jaxrl.sampling.engine import unseated
from jaxrl.sampling.sampler import abstract_weights, default_batch_sizes
from models.cache import cache_size
from models.config import Qwen2Config
from models.params import head_kernel
from models.qwen2 import Qwen2

CONFIG = Qwen2Config(
    vocab_size=41,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    tie_word_embeddings=True,
    max_position_embeddings=320,
)
EOS = (3, 7)


def mesh(devices: int):
    return jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


@pytest.fixture(scope="module")
def params():
    ones = jnp.ones((1, 4), jnp.int32)
    tree = nn.meta.unbox(Qwen2(CONFIG).init(jax.random.key(1), ones, ones, ones[:, 0])["params"])
    return jax.tree.map(lambda x: x * 6 if x.ndim > 1 else x, tree)  # sharper logits than at initialisation


@pytest.fixture(scope="module")
def samplers():
    return {devices: Sampler(CONFIG, mesh(devices), rows=16, chunk=8) for devices in (1, 4)}


PROMPTS = [np.random.default_rng(i).integers(0, 41, size=n).tolist() for i, n in enumerate((5, 60, 70, 20, 1, 33))]


def run(sampler, params, prompts=range(6), samples=range(4), new=90, step=2, progress=None, **spec):
    prompts, samples = list(prompts), list(samples)
    coordinates = Coordinates(11, step, np.array(prompts), np.array(samples))
    spec = SamplingSpec(max_new_tokens=new, eos_ids=spec.pop("eos_ids", EOS), **spec)
    return sampler.sample(
        sampler.decode_weights(params), [PROMPTS[p] for p in prompts], len(samples), coordinates, spec,
        progress,
    )  # fmt: skip


def by_name(completions, prompts, samples):
    """{(prompt, sample): (tokens, logp)} cut to length, as bytes."""
    names = [(p, s) for p in prompts for s in samples]
    return {
        name: (
            completions.tokens[i, :n].tobytes(),
            completions.logp[i, :n].tobytes(),
            bool(completions.finished[i]),
        )
        for i, (name, n) in enumerate(zip(names, completions.lengths, strict=True))
    }


@pytest.fixture(scope="module")
def reference(samplers, params):
    return by_name(run(samplers[1], params), range(6), range(4))


def test_a_completion_does_not_know_its_neighbours_or_its_slot(samplers, params, reference):
    for prompts, samples in [((4,), (0,)), ((5, 2, 0), (3, 1)), ((3, 4), (2,))]:
        part = by_name(run(samplers[1], params, prompts, samples), prompts, samples)
        assert part == {name: reference[name] for name in part}


def test_a_completion_does_not_know_the_number_of_devices(samplers, params, reference):
    assert by_name(run(samplers[4], params), range(6), range(4)) == reference


def test_weights_split_over_devices_draw_the_same_tokens(params):
    """Two groups of two devices, each with half of every layer and of the vocabulary: sums come in another order,
    nothing else differs."""
    config, split = dataclasses.replace(CONFIG, vocab_size=42), make_mesh(MeshSpec(data=2, tensor=2), jax.devices()[:4])
    table = params["embed"]["embedding"]
    params = {**params, "embed": {"embedding": jnp.concatenate([table, table[:1]])}}
    sampler = Sampler(config, split, weight_shardings=decode_shardings(config, split), rows=16, chunk=8)
    assert sampler.devices == 2
    weights = sampler.decode_weights(params)
    halves = {(24, 32): weights["layers_0"]["mlp"]["up"]["kernel"], (21, 32): weights["embed"]["embedding"]}
    for half, matrix in halves.items():
        assert {shard.data.shape for shard in matrix.addressable_shards} == {half}
    whole, drawn = (
        by_name(run(one, params), range(6), range(4)) for one in (Sampler(config, mesh(1), rows=16, chunk=8), sampler)
    )
    for name, (tokens, logp, finished) in whole.items():
        assert drawn[name][0] == tokens and drawn[name][2] == finished
        mine = np.frombuffer(drawn[name][1], np.float32)
        np.testing.assert_allclose(mine, np.frombuffer(logp, np.float32), atol=1e-4)


def test_a_completion_does_not_know_refill_order_or_number_of_slots(params, reference):
    sampler = Sampler(CONFIG, mesh(1), rows=16, chunk=5, slots=16)
    assert by_name(run(sampler, params), range(6), range(4)) == reference
    assert (
        by_name(run(sampler, params, reversed(range(6)), (2, 0, 3, 1)), reversed(range(6)), (2, 0, 3, 1)) == reference
    )


def test_a_completion_does_not_know_who_was_refilled_on_which_device(params, reference):
    """72 rows over 4 x 16 slots: some wait, and a device that runs out takes rows of another."""
    sampler = Sampler(CONFIG, mesh(4), rows=16, chunk=8, slots=64)
    drawn = by_name(run(sampler, params, samples=range(12)), range(6), range(12))
    assert {name: drawn[name] for name in reference} == reference


@pytest.mark.parametrize("devices", [1, 4])
def test_rows_that_all_end_at_once_leave_no_batch_without_rows(params, devices):
    """40 rows over two batches of 16 slots: both are empty at once, and the queue fills only one again."""
    sampler = Sampler(CONFIG, mesh(devices), rows=16, slots=32 * devices)
    asked = 40 * devices
    coordinates = Coordinates(0, 0, np.arange(asked), np.arange(1))
    out = sampler.sample(sampler.decode_weights(params), [[1]] * asked, 1, coordinates, SamplingSpec(2, ()))
    assert sampler.batches == 2 and (out.lengths == 2).all()


def test_a_neighbour_that_truncates_changes_nothing(samplers, params, reference):
    """Where one row restricts its tokens, all are drawn by the program that can."""
    mixed = run(samplers[1], params, top_k=np.tile([0, 0, 3, 0], 6), top_p=np.tile([1, 1, 1, 0.4], 6))
    drawn = by_name(mixed, range(6), range(4))
    same = {name for name in reference if drawn[name] == reference[name]}
    assert same >= {name for name in reference if name[1] < 2} and len(same) < 16


def test_a_prompt_is_run_through_the_model_once_for_all_of_its_samples(params, monkeypatch):
    sampler, held = Sampler(CONFIG, mesh(1), rows=16, chunk=8, slots=16), []
    prefill = sampler.programs.prefill
    monkeypatch.setattr(
        sampler.programs,
        "prefill",
        lambda weights, tokens, lengths: held.append(lengths) or prefill(weights, tokens, lengths),
    )
    run(sampler, params, samples=range(16))
    rows = np.concatenate(held)
    filled = sorted(len(prompt) for prompt in PROMPTS)  # a row that only fills up has one token, and so has a prompt
    assert sorted(rows[rows > 1].tolist()) == [n for n in filled if n > 1]


def test_rows_are_spread_evenly_over_devices(params):
    sampler, seen = Sampler(CONFIG, mesh(4), rows=16, chunk=8), []
    decode = sampler.programs.decode[False]
    sampler.programs.decode[False] = lambda weights, cache, slots, *rest: (
        seen.append(np.asarray(~slots.done).reshape(4, 16).sum(axis=1)) or decode(weights, cache, slots, *rest)
    )
    run(sampler, params, eos_ids=())
    assert seen[0].tolist() == [6, 6, 6, 6]


MANY_WORDS = Qwen2Config(
    vocab_size=640, hidden_size=128, intermediate_size=192, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, tie_word_embeddings=True, max_position_embeddings=256,
)  # fmt: skip


def test_a_batch_shrinks_as_its_rows_end_and_no_bit_changes(monkeypatch):
    """Limits of 1 to 120 tokens: the last rows run alone for long. One token is drawn by each batch size."""
    ones = jnp.ones((1, 4), jnp.int32)
    params = nn.meta.unbox(Qwen2(MANY_WORDS).init(jax.random.key(1), ones, ones, ones[:, 0])["params"])
    params = jax.tree.map(lambda x: x * 4 if x.ndim > 1 else x, params)
    limits, drawn, shapes = np.linspace(1, 120, 64).astype(int), {}, set()
    for sizes in ((32,), (8, 16, 32)):
        sampler = Sampler(MANY_WORDS, mesh(1), rows=32, chunk=8)
        assert sampler.batch_sizes == (8, 16, 32)
        sampler.batch_sizes, decode = sizes, sampler.programs.decode[False]
        sampler.programs.decode[False] = lambda weights, cache, slots, *rest, decode=decode: (
            shapes.add(len(slots.done)) or decode(weights, cache, slots, *rest)
        )
        coordinates = Coordinates(0, 0, np.arange(4), np.arange(16))
        out = sampler.sample(sampler.decode_weights(params), PROMPTS_OF_MANY, 16, coordinates, SamplingSpec(limits, ()))
        drawn[sizes] = by_name(out, range(4), range(16)), out.occupancy
    assert drawn[32,][0] == drawn[8, 16, 32][0] and shapes == {8, 16, 32}
    assert drawn[8, 16, 32][1] > 1.1 * drawn[32,][1]


PROMPTS_OF_MANY = [np.random.default_rng(i).integers(0, 640, size=n).tolist() for i, n in enumerate((5, 60, 30, 1))]


@pytest.mark.parametrize(
    "rows, on_cpu, words, sizes",
    [(128, False, 152064, (16, 32, 64, 128)), (24, False, 152064, (24,)), (32, True, 640, (8, 16, 32)),
     (32, True, 300, (16, 32)), (32, True, 41, (32,)), (96, True, 640, (24, 48, 96))],
)  # fmt: skip
def test_batches_shrink_by_halves_as_far_as_it_pays_and_keeps_the_numbers(rows, on_cpu, words, sizes):
    config = dataclasses.replace(MANY_WORDS, vocab_size=words)
    assert default_batch_sizes(config, rows, 256, on_cpu=on_cpu) == sizes


def test_as_many_programs_as_lengths_and_none_for_another_prompt_of_the_same(params):
    """A step's worth of unequal prompts, then others of the same buckets: nothing compiles again."""
    sampler = Sampler(CONFIG, mesh(1), rows=16, chunk=8)
    weights, coordinates = sampler.decode_weights(params), Coordinates(1, 1, np.arange(6), np.arange(4))
    sampler.sample(weights, PROMPTS, 4, coordinates, SamplingSpec(200, ()))
    before = sampler.traces
    assert before["prefill"] <= len(sampler.prompt_lengths) and before["grow"] <= len(sampler.cache_lengths)
    assert before["decode"] <= len(sampler.cache_lengths) * len(sampler.batch_sizes)
    sampler.sample(weights, [prompt[1:] or prompt for prompt in PROMPTS], 4, coordinates, SamplingSpec(200, ()))
    assert sampler.traces == before


def test_a_row_may_fill_the_longest_cache(params):
    sampler = Sampler(CONFIG, mesh(1), rows=16, chunk=8)
    weights, coordinates = sampler.decode_weights(params), Coordinates(0, 0, np.arange(1), np.arange(2))
    out = sampler.sample(weights, [[1] * 319], 2, coordinates, SamplingSpec(1, ()))
    assert (out.lengths == 1).all() and not out.finished.any()
    with pytest.raises(ValueError, match="more than longest = 320 together"):
        sampler.sample(weights, [[1] * 320], 2, coordinates, SamplingSpec(1, ()))


def test_a_completion_does_not_know_the_rows_of_a_batch(params):
    """32, 64 and 96 rows multiply in units of 32."""
    drawn = [by_name(run(Sampler(CONFIG, mesh(1), rows=rows, chunk=16), params, samples=range(16), new=30), range(6),
                     range(16)) for rows in (32, 64, 96)]  # fmt: skip
    assert drawn[0] == drawn[1] == drawn[2]


def test_a_completion_of_a_narrow_model_does_not_know_the_rows_of_a_batch():
    """Norms of 128 rows, each 32 wide, are the first that XLA takes for large arrays."""
    ones, narrow = jnp.ones((1, 4), jnp.int32), dataclasses.replace(MANY_WORDS, hidden_size=32)
    params = nn.meta.unbox(Qwen2(narrow).init(jax.random.key(1), ones, ones, ones[:, 0])["params"])
    params = jax.tree.map(lambda x: x * 6 if x.ndim > 1 else x, params)
    coordinates, drawn = Coordinates(0, 0, np.arange(4), np.arange(32)), []
    for rows in (32, 128):
        sampler = Sampler(narrow, mesh(1), rows=rows, chunk=20, slots=128)
        out = sampler.sample(sampler.decode_weights(params), PROMPTS_OF_MANY, 32, coordinates, SamplingSpec(20, ()))
        drawn.append(by_name(out, range(4), range(32)))
    assert drawn[0] == drawn[1]


def test_weights_may_come_from_other_devices_than_those_that_sample(params, samplers, reference):
    here = jax.device_put(params, jax.devices()[3])
    weights = samplers[1].decode_weights(here)
    assert {leaf.sharding for leaf in jax.tree.leaves(weights)} == {samplers[1].programs.whole}
    assert by_name(run(samplers[4], here), range(6), range(4)) == reference


def test_batches_in_work_are_those_whose_longest_caches_fit_the_memory(params, reference):
    one = 2 * 2 * 320 * 2 * 8 * 4 * 32  # sides, layers, positions, heads, size of a head, bytes, rows
    found = {}
    with pytest.raises(ValueError, match=r"one batch of 32 rows .* takes 2,621,440 bytes .* got 2,621,439"):
        Sampler(CONFIG, mesh(1), rows=32, chunk=16, memory=one - 1)
    for memory in (0, 2 * one - 1, 2 * one):
        sampler = Sampler(CONFIG, mesh(1), rows=32, chunk=16, memory=memory)
        found[memory] = sampler.batches
        assert by_name(run(sampler, params, samples=range(8), new=20), range(6), range(8)).keys() > reference.keys()
    assert found == {0: 1, 2 * one - 1: 1, 2 * one: 2} and Sampler(CONFIG, mesh(1), rows=32).batches is None


def test_progress_counts_completions_that_have_ended(params):
    told = []
    sampler = Sampler(CONFIG, mesh(1), rows=16, chunk=5, slots=16)
    drawn = run(sampler, params, progress=lambda *counts: told.append(counts))
    assert told[-1] == (24, 24) and told == sorted(told) and len({done for done, _ in told}) > 4
    assert told[0][0] == (drawn.lengths[:16] <= 5).sum()  # the first chunk draws the first token too


def test_a_completion_does_not_know_the_length_of_the_cache(params, reference):
    sampler = Sampler(CONFIG, mesh(1), rows=16, chunk=64, cache_lengths=(320,))
    assert by_name(run(sampler, params), range(6), range(4)) == reference


def test_a_completion_does_not_know_the_longest_prompt_that_is_asked_with_it(samplers, params):
    """A prompt of 70 tokens where 72 positions are enough, and where others need more."""
    alone = Sampler(CONFIG, mesh(1), rows=16, chunk=8, longest=72)
    assert (alone.prompt_lengths, samplers[1].prompt_lengths) == ((64, 96), (64, 96, 128, 192, 256, 384))
    drawn = [by_name(run(sampler, params, (2,), new=2), (2,), range(4)) for sampler in (alone, samplers[1])]
    assert drawn[0] == drawn[1]


def test_a_cache_is_cut_when_its_long_row_has_ended_and_no_bit_changes(params):
    """One row of 200 tokens and many of 60 behind it, over 16 slots."""
    limits, drawn, sizes = np.full(96, 60), [], []
    limits[0] = 200
    for lengths in (None, (320,)):
        sampler = Sampler(CONFIG, mesh(1), rows=16, chunk=8, slots=16, cache_lengths=lengths)
        decode = sampler.programs.decode[False]
        sampler.programs.decode[False] = lambda weights, cache, slots, *rest, decode=decode: (
            sizes.append(cache_size(cache)) or decode(weights, cache, slots, *rest)
        )
        prompts = (0, 3, 4, 5)
        drawn.append(by_name(run(sampler, params, prompts, range(24), limits, eos_ids=()), prompts, range(24)))
    assert drawn[0] == drawn[1]
    changes = [size for size, before in zip(sizes, [0, *sizes], strict=False) if size != before]
    assert changes == [128, 192, 256, 128, 320]


def test_samples_prompts_steps_and_seeds_differ(samplers, params, reference):
    assert len(set(reference.values())) == len(reference)
    other = by_name(run(samplers[1], params, step=3), range(6), range(4))
    assert all(other[name] != reference[name] for name in reference)


@jax.jit
def teacher_forced_logits(params, tokens, lengths):
    place = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
    hidden, _ = Qwen2(CONFIG).apply({"params": params}, tokens, place, lengths)
    return jnp.einsum("btd,vd->btv", hidden, head_kernel(params, CONFIG))


@pytest.mark.parametrize("temperature", [0.7, 0.0])
def test_logp_is_that_of_the_model_on_the_whole_row(samplers, params, temperature):
    """Prefill + decode == full forward; logp is at the row's temperature, untruncated (greedy: 1)."""
    out = run(samplers[1], params, temperature=temperature, top_k=5)
    rows = [PROMPTS[i // 4] + out.tokens[i, :n].tolist() for i, n in enumerate(out.lengths)]
    tokens = np.zeros((24, 160), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    all_logits = np.asarray(teacher_forced_logits(params, tokens, np.array([len(row) for row in rows])))
    for i, n in enumerate(out.lengths):
        logits = all_logits[i, len(rows[i]) - n - 1 : len(rows[i]) - 1].astype(np.float64)
        scaled = logits / (temperature or 1.0)
        drawn = np.arange(n), out.tokens[i, :n]
        expected = scaled[drawn] - np.log(np.exp(scaled).sum(-1))
        np.testing.assert_allclose(out.logp[i, :n], expected, atol=2e-4)
        if temperature == 0.0:
            np.testing.assert_allclose(logits[drawn], logits.max(-1), atol=1e-4)
        assert (logits[drawn] >= np.sort(logits, axis=-1)[:, -5] - 1e-4).all()
        assert (out.tokens[i, n:] == 0).all() and (out.logp[i, n:] == 0).all()


def test_a_row_ends_at_its_first_eos_or_at_its_limit(samplers, params):
    """One end per row; what a finished row would have drawn next must not leak into it."""
    eos, limits = tuple(range(12)), np.tile([1, 2, 3, 60], 6)
    out = run(samplers[1], params, new=limits, eos_ids=eos)
    for row, n in enumerate(out.lengths):
        ends = np.isin(out.tokens[row, :n], eos)
        assert not ends[:-1].any() and ends[-1] == out.finished[row]
        assert n <= limits[row] and (out.finished[row] or n == limits[row])
    assert 0 < out.finished.sum() < 24


def spell(tokens):
    """Two letters out of five a token, so that a string falls across tokens in more than one way."""
    return "".join("abcde"[token % 5] + "abcde"[token // 5 % 5] for token in tokens)


@pytest.mark.parametrize(("devices", "chunk"), [(1, 8), (4, 8), (1, 32)])
def test_a_stop_string_ends_a_row_where_it_is_complete_and_changes_nothing_before(params, devices, chunk):
    sampler = Sampler(CONFIG, mesh(devices), rows=16, chunk=chunk)
    free = run(sampler, params, eos_ids=())
    stop = StopStrings(("abc", "eeb", "dad"), spell)
    held = run(sampler, params, eos_ids=(), stop=stop)
    ended = 0
    for row, tokens in enumerate(free.tokens):
        complete = (n for n in range(1, 91) if any(string in spell(tokens[:n]) for string in stop.strings))
        end = next(complete, None)
        ended += end is not None
        assert held.finished[row] == (end is not None)
        assert held.lengths[row] == (end or 90)
        for kept, whole in ((held.tokens, free.tokens), (held.logp, free.logp)):
            np.testing.assert_array_equal(kept[row, :end], whole[row, :end])
            assert not kept[row, held.lengths[row] :].any()
    assert 4 < ended < 24


def test_truncated_logp_is_that_of_the_distribution_drawn_from(samplers, params):
    drawn = run(samplers[1], params, new=6, top_k=3, temperature=0.7)
    rows = np.arange(6)[None] < drawn.lengths[:, None]
    kept = np.exp(drawn.logp[rows].astype(np.float64)) / np.exp(drawn.truncated_logp[rows].astype(np.float64))
    assert (kept <= 1 + 1e-5).all()  # probability that truncation left over
    assert kept.min() < 0.9
    free = run(samplers[1], params, new=6, temperature=0.7)
    np.testing.assert_array_equal(free.logp, free.truncated_logp)
    one = run(samplers[1], params, new=6, top_k=1)
    assert np.abs(one.truncated_logp).max() < 1e-6


def test_a_decode_step_writes_in_place_talks_to_nobody_and_takes_each_cosine_once():
    sampler = Sampler(CONFIG, mesh(4), rows=16)
    programs, rows = sampler.programs, np.zeros(64, np.int32)
    settings = dict.fromkeys(("max_new_tokens", "temperature", "top_k", "top_p", "min_p"), rows)
    settings |= {name: rows.astype(np.float32) for name in ("temperature", "top_p", "min_p")}
    arguments = (
        programs.empty_cache(256),
        programs.put(unseated(settings, rows)),
        np.int32(4),
        jnp.zeros(1, jnp.int32),
    )
    program = programs.decode[False].lower(abstract_weights(sampler.model), *arguments).compile()
    one_layer = 16 * 2 * 256 * 8 * 4  # bytes of one side of one layer's cache on a device
    memory = program.memory_analysis()
    assert memory.temp_size_in_bytes < one_layer
    assert memory.alias_size_in_bytes >= 4 * one_layer
    assert not re.search("all-|collective-", program.as_text())
    assert program.as_text().count(" cosine(") == 1  # in no fusion of a head, a layer or a block of the cache


@pytest.mark.parametrize("truncated", [False, True])
def test_a_decode_step_on_a_cpu_turns_its_logits_once(truncated):
    """The head gives them as columns; not once for each pass of the draw."""
    sampler = Sampler(dataclasses.replace(CONFIG, vocab_size=640), mesh(1), rows=32)
    program = lower(sampler, 128, 64, truncated)["decode"].compile()
    assert len(re.findall(r"= f32\[32,640\]\S* copy\(", program.as_text())) == 1


def test_first_tokens_follow_the_distribution(samplers, params):
    """2,048 samples of one prompt: frequencies of the first token against the probabilities (chi-squared)."""
    out = run(samplers[1], params, (3,), range(2048), new=1)
    tokens = jnp.asarray([PROMPTS[3]])
    hidden, _ = Qwen2(CONFIG).apply({"params": params}, tokens, jnp.arange(20)[None], jnp.asarray([20]))
    expected = 2048 * np.asarray(jax.nn.softmax(hidden[0, -1] @ head_kernel(params, CONFIG).T))
    seen = np.bincount(out.tokens[:, 0], minlength=41)
    likely = expected >= 5
    statistic = ((seen - expected) ** 2 / expected)[likely].sum()
    assert likely.sum() > 5 and statistic < likely.sum() + 4 * np.sqrt(2 * likely.sum())


def test_rows_may_differ_in_settings_and_nothing_compiles_again(samplers, params):
    mixed = run(samplers[1], params, temperature=np.tile([1.0, 0.0, 0.5, 2.0], 6), top_p=0.9)
    before = samplers[1].traces
    greedy = run(samplers[1], params, temperature=0.0, top_p=0.8, new=90, step=7)
    assert samplers[1].traces == before
    names = [(p, s) for p in range(6) for s in range(4)]
    for i, (_, sample) in enumerate(names):
        same = mixed.tokens[i, : mixed.lengths[i]].tolist() == greedy.tokens[i, : greedy.lengths[i]].tolist()
        assert same == (sample == 1) or (same and mixed.lengths[i] < 4)


def test_a_cache_grows_layer_by_layer_and_gives_up_the_old_one(samplers):
    programs, held = samplers[4].programs, []
    cache = jax.tree.map(lambda x: x + 2, programs.empty_cache(128))
    grow = programs._sized.setdefault(("grow", 192), programs._jit("grow", partial(step.grow, blocks=3), (P("data"),)))

    def watched(layer):
        held.append(sum(not x.is_deleted() for x in jax.tree.leaves(cache)))
        return grow(layer)

    programs._sized["grow", 192] = watched
    grown = programs.grow(cache, 192)
    assert held == [4, 2]  # keys and values of each layer that is still to come
    assert all(x.is_deleted() for x in jax.tree.leaves(cache))
    assert [(x[:, :, :2].min(), x[:, :, 2:].max()) for x in jax.tree.leaves(grown)] == [(2.0, 0.0)] * 4


def test_nan_names_row_token_and_step(params):
    """In the embedding of a token that one prompt has; and of one that a row draws itself and then reads."""
    sampler = Sampler(dataclasses.replace(CONFIG, tie_word_embeddings=False), mesh(1), rows=16, chunk=8)
    table = params["embed"]["embedding"]

    def sample(prompts, places, token=None):
        embed = {"embedding": table if token is None else table.at[token].set(jnp.nan)}
        weights = sampler.decode_weights({**params, "lm_head": {"embedding": table}, "embed": embed})
        coordinates = Coordinates(11, 2, np.array(places), np.arange(2))
        return sampler.sample(weights, prompts, 2, coordinates, SamplingSpec(20, ()))

    prompts = [[token % 40 for token in prompt] for prompt in PROMPTS]
    prompts[1][7] = 40
    with pytest.raises(FloatingPointError, match=r"row 2 \(prompt 1, sample 0\).* token 0, step 2"):
        sample(prompts, range(6), 40)
    drawn = sample([PROMPTS[4]], [4]).tokens[1].tolist()
    place, token = next((i, token) for i, token in enumerate(drawn) if i > 2 and token not in PROMPTS[4] + drawn[:i])
    before = sample([PROMPTS[4]], [4]).tokens[0].tolist()
    assert token not in before[: place + 1]
    with pytest.raises(FloatingPointError, match=rf"row 1 \(prompt 4, sample 1\).* token {place + 1}, step 2"):
        sample([PROMPTS[4]], [4], token)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"prompts": []}, "at least one prompt"),
        ({"prompts": [[1], []]}, "prompt 1 is empty"),
        ({"prompts": [[1] * 321, [2]]}, "longest cache of 320"),
        ({"prompts": [[1] * 300, [2]]}, "more than longest = 320 together"),
        ({"prompts": [[41], [2]]}, "outside the vocabulary"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\]"),
        ({"top_p": 1.5}, "top_p"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": 1e-40}, r"0 \(greedy\) or at least"),
        ({"temperature": [1.0, 0.5, 0.2]}, "one value or one per row"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 1.9}, "max_new_tokens must be a whole number up to 2147483647, got 1.9"),
        ({"top_k": 0.5}, "top_k must be a whole number"),
        ({"top_k": np.array([1, 2**32, 1, 1])}, "top_k must lie in"),
        ({"top_k": 2**40}, "top_k must lie in"),
        ({"top_k": 2**70}, "top_k must be a whole number"),
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"eos_ids": (99,)}, "eos_ids"),
        ({"eos_ids": 3}, "eos_ids must be a sequence of token ids"),
        ({"prompt": [0]}, "coordinates"),
        ({"prompt": [0, 2**32]}, "each prompt must be a whole number from 0 to 2147483647"),
        ({"prompt": [0, -1]}, "each prompt must be a whole number"),
    ],
)
def test_a_bad_request_fails_before_anything_compiles(params, change, message):
    sampler = Sampler(CONFIG, mesh(1), rows=16)
    asked = {"prompts": [[1], [2]], "prompt": [0, 1], "max_new_tokens": 90, "eos_ids": EOS} | change
    prompts, prompt = asked.pop("prompts"), asked.pop("prompt")
    with pytest.raises(ValueError, match=message):
        sampler.sample(None, prompts, 2, Coordinates(0, 0, np.array(prompt), np.arange(2)), SamplingSpec(**asked))
    assert sampler.traces == {}


@pytest.mark.parametrize(
    "settings, message",
    [
        *(({name: value}, f"{name} must be a whole number of at least 1, got {value}")
          for name in ("rows", "chunk", "longest", "prompt_rows") for value in (0, -1, 1.5)),
        ({"longest": 321}, "max_position_embeddings, 320, got 321"),
        ({"memory": -5}, "memory must be at least 0 bytes, got -5"),
        ({"slots": 0}, "slots must hold a batch of 1 rows on each of 4 devices, 4 in all, got 0"),
        ({"slots": 3}, "got 3; raise slots"),
        ({"slots": 127, "rows": 32}, "a batch of 32 rows on each of 4 devices, 128 in all, got 127"),
        ({"cache_lengths": ()}, "cache_lengths must ascend"),
        ({"prompt_lengths": (64, 96)}, "prompt_lengths must ascend from at least 2 and reach longest = 320"),
    ],
)  # fmt: skip
def test_numbers_that_no_sampler_can_have_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampler(CONFIG, mesh(4), **settings)


def test_slots_bound_the_rows_that_nobody_names(params):
    found = {slots: Sampler(CONFIG, mesh(4), slots=slots) for slots in (4, 67, 128, 300)}
    assert {slots: (sampler.rows, sampler.batches) for slots, sampler in found.items()} == {
        4: (1, 1),
        67: (16, 1),
        128: (32, 1),
        300: (32, 2),
    }

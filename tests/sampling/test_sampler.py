"""Law 3 (one model): tokens and log-probabilities are those of the model; rows end where they should."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.small_samplers import CONFIG, PROMPTS, mesh, run

from jaxrl.sampling import Coordinates, Sampler, SamplingSpec, StopStrings
from models.params import head_kernel
from models.qwen2 import Qwen2


def test_progress_counts_completions_that_have_ended(params):
    reports = []
    sampler = Sampler(CONFIG, mesh(1), rows=16, chunk=5, slots=16)
    sampled = run(sampler, params, progress=lambda *counts: reports.append(counts))
    assert reports[-1] == (24, 24) and reports == sorted(reports) and len({done for done, _ in reports}) > 4
    assert reports[0][0] == (sampled.lengths[:16] <= 5).sum()  # the first token and those of the first chunk


@jax.jit
def teacher_forced_logits(params, tokens, lengths):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
    hidden, _ = Qwen2(CONFIG).apply({"params": params}, tokens, positions, lengths)
    return jnp.einsum("btd,vd->btv", hidden, head_kernel(params, CONFIG))


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("temperature", [0.7, 0.0])
def test_logp_equals_that_of_the_model_on_the_full_row(samplers, plain_sampler, params, temperature, platform):
    """Prefill + decode == full forward; logp is at the row's temperature (greedy: 1), before truncation."""
    sampler = samplers[1] if platform == "cpu" else plain_sampler
    out = run(sampler, params, temperature=temperature, top_k=5)
    rows = [PROMPTS[i // 4] + out.tokens[i, :n].tolist() for i, n in enumerate(out.lengths)]
    tokens = np.zeros((24, 160), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    all_logits = np.asarray(teacher_forced_logits(params, tokens, np.array([len(row) for row in rows])))
    for i, n in enumerate(out.lengths):
        logits = all_logits[i, len(rows[i]) - n - 1 : len(rows[i]) - 1].astype(np.float64)
        scaled = logits / (temperature or 1.0)
        sampled = np.arange(n), out.tokens[i, :n]
        expected = scaled[sampled] - np.log(np.exp(scaled).sum(-1))
        np.testing.assert_allclose(out.logp[i, :n], expected, atol=2e-4)
        if temperature == 0.0:
            np.testing.assert_allclose(logits[sampled], logits.max(-1), atol=1e-4)
        assert (logits[sampled] >= np.sort(logits, axis=-1)[:, -5] - 1e-4).all()
        assert (out.tokens[i, n:] == 0).all() and (out.logp[i, n:] == 0).all()


@pytest.mark.check
def test_a_row_ends_at_its_first_eos_or_at_its_limit(samplers, params):
    """One end per row; tokens that a finished row would have sampled next must not appear."""
    eos, limits = tuple(range(12)), np.tile([1, 2, 3, 60], 6)
    out = run(samplers[1], params, new=limits, eos_ids=eos)
    for row, n in enumerate(out.lengths):
        ends = np.isin(out.tokens[row, :n], eos)
        assert not ends[:-1].any() and ends[-1] == out.finished[row]
        assert n <= limits[row] and (out.finished[row] or n == limits[row])
    assert 0 < out.finished.sum() < 24


def spell(tokens):
    """Two of five letters per token, so that a string may be split into tokens in several ways."""
    return "".join("abcde"[token % 5] + "abcde"[token // 5 % 5] for token in tokens)


@pytest.mark.parametrize(("devices", "chunk"), [(1, 8), (4, 8), (1, 32)])
def test_a_stop_string_ends_a_row_where_it_is_complete_and_changes_no_token_before(params, devices, chunk):
    sampler = Sampler(CONFIG, mesh(devices), rows=16, chunk=chunk)
    free = run(sampler, params, eos_ids=())
    stop = StopStrings(("abc", "eeb", "dad"), spell)
    stopped = run(sampler, params, eos_ids=(), stop=stop)
    ended = 0
    for row, tokens in enumerate(free.tokens):
        complete = (n for n in range(1, 91) if any(string in spell(tokens[:n]) for string in stop.strings))
        end = next(complete, None)
        ended += end is not None
        assert stopped.finished[row] == (end is not None)
        assert stopped.lengths[row] == (end or 90)
        for kept, full in ((stopped.tokens, free.tokens), (stopped.logp, free.logp)):
            np.testing.assert_array_equal(kept[row, :end], full[row, :end])
            assert not kept[row, stopped.lengths[row] :].any()
    assert 4 < ended < 24


def test_truncated_logp_is_that_of_the_truncated_distribution(samplers, params):
    sampled = run(samplers[1], params, new=6, top_k=3, temperature=0.7)
    rows = np.arange(6)[None] < sampled.lengths[:, None]
    kept = np.exp(sampled.logp[rows].astype(np.float64)) / np.exp(sampled.truncated_logp[rows].astype(np.float64))
    assert (kept <= 1 + 1e-5).all()  # probability of the kept tokens
    assert kept.min() < 0.9
    free = run(samplers[1], params, new=6, temperature=0.7)
    np.testing.assert_array_equal(free.logp, free.truncated_logp)
    one = run(samplers[1], params, new=6, top_k=1)
    assert np.abs(one.truncated_logp).max() < 1e-6


def test_first_tokens_follow_the_distribution_of_the_model(samplers, params):
    """2,048 samples of one prompt: frequencies of the first token against the probabilities (chi-squared)."""
    out = run(samplers[1], params, (3,), range(2048), new=1)
    tokens = jnp.asarray([PROMPTS[3]])
    hidden, _ = Qwen2(CONFIG).apply({"params": params}, tokens, jnp.arange(20)[None], jnp.asarray([20]))
    expected = 2048 * np.asarray(jax.nn.softmax(hidden[0, -1] @ head_kernel(params, CONFIG).T))
    seen = np.bincount(out.tokens[:, 0], minlength=41)
    likely = expected >= 5
    statistic = ((seen - expected) ** 2 / expected)[likely].sum()
    assert likely.sum() > 5 and statistic < likely.sum() + 4 * np.sqrt(2 * likely.sum())


def test_nan_names_row_token_and_step(params):
    """A NaN in the embedding of a token of one prompt, and of a token that one row samples."""
    sampler = Sampler(dataclasses.replace(CONFIG, tie_word_embeddings=False), mesh(1), rows=16, chunk=8)
    table = params["embed"]["embedding"]

    def sample(prompts, indices, token=None):
        embed = {"embedding": table if token is None else table.at[token].set(jnp.nan)}
        weights = sampler.decode_weights({**params, "lm_head": {"embedding": table}, "embed": embed})
        coordinates = Coordinates(11, 2, np.array(indices), np.arange(2))
        return sampler.sample(weights, prompts, 2, coordinates, SamplingSpec(20, ()))

    prompts = [[token % 40 for token in prompt] for prompt in PROMPTS]
    prompts[1][7] = 40
    with pytest.raises(FloatingPointError, match=r"row 2 \(prompt 1, sample 0\).* token 0, step 2"):
        sample(prompts, range(6), 40)
    tokens = sample([PROMPTS[4]], [4]).tokens[1].tolist()
    index, token = next((i, token) for i, token in enumerate(tokens) if i > 2 and token not in PROMPTS[4] + tokens[:i])
    before = sample([PROMPTS[4]], [4]).tokens[0].tolist()
    assert token not in before[: index + 1]
    with pytest.raises(FloatingPointError, match=rf"row 1 \(prompt 4, sample 1\).* token {index + 1}, step 2"):
        sample([PROMPTS[4]], [4], token)

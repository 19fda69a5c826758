"""Sampling a token from a vocabulary of many blocks follows the distribution, truncated or not, with the right logp."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.sampling.decode import sample_token
from jaxrl.sampling.types import initial_slots

pytestmark = pytest.mark.check

ROWS = 4096


def slots(rows, **settings):
    """Rows at position 0 with different keys."""
    given = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "max_new_tokens": 9} | settings
    kinds = {"top_k": np.int32, "max_new_tokens": np.int32}
    arrays = {name: np.broadcast_to(np.asarray(x, kinds.get(name, np.float32)), (rows,)) for name, x in given.items()}
    keys = jax.vmap(lambda i: jax.random.key_data(jax.random.fold_in(jax.random.key(5, impl="threefry2x32"), i)))
    initial = initial_slots(arrays, np.ones(rows, np.int32))
    return jax.tree.map(jnp.asarray, initial._replace(key=keys(jnp.arange(rows))))


@pytest.fixture(scope="module", params=[640, 288])
def logits(request):
    """Five blocks of 128 entries, or nine of 32; some entries and one full block have probability 0."""
    values = np.random.default_rng(request.param).normal(size=request.param).astype(np.float32) * 1.5
    values[::7] = -np.inf
    values[128:256] = -np.inf
    return values


def sample(logits, state, truncated):
    rows = jnp.broadcast_to(jnp.asarray(logits), (len(state.done), len(logits)))
    return jax.tree.map(np.asarray, jax.jit(partial(sample_token, truncated=truncated))(rows, state))


def probabilities(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """By sorting, in float64."""
    scaled = logits.astype(np.float64) / temperature
    order = np.argsort(-scaled, kind="stable")
    kept = order[: top_k or None]
    mass = np.exp(scaled[kept] - scaled.max())
    kept = kept[: np.searchsorted(np.cumsum(mass) / mass.sum(), top_p) + 1]
    kept = kept[np.exp(scaled[kept] - scaled.max()) >= min_p]
    found = np.zeros_like(scaled)
    found[kept] = np.exp(scaled[kept] - scaled.max())
    return found / found.sum()


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.6}, {"top_k": 40}, {"top_p": 0.7}, {"min_p": 0.05},
                 {"temperature": 1.4, "top_k": 90, "top_p": 0.8, "min_p": 0.02}],
)  # fmt: skip
def test_token_frequencies_equal_their_probabilities(logits, settings):
    """Chi-squared over 4,096 tokens; excluded tokens are never sampled; both log-probabilities equal the definition."""
    truncated = bool(settings.keys() - {"temperature"})
    token, logp, broken = sample(logits, slots(ROWS, **settings), truncated)
    expected = probabilities(logits, **settings)
    seen = np.bincount(token, minlength=len(logits))
    assert not broken.any() and seen[expected == 0].sum() == 0
    likely = expected * ROWS >= 5
    cells = np.append(seen[likely], seen[~likely].sum()), np.append(expected[likely], expected[~likely].sum()) * ROWS
    cells = tuple(x[cells[1] > 1] for x in cells)
    statistic, freedom = ((cells[0] - cells[1]) ** 2 / cells[1]).sum(), len(cells[0]) - 1
    assert freedom > 10 and abs(statistic - freedom) < 4 * np.sqrt(2 * freedom)
    full = probabilities(logits, temperature=settings.get("temperature", 1.0))
    np.testing.assert_allclose(logp, np.log(np.stack([full[token], expected[token]], axis=1)), atol=1e-5)


def test_rows_of_one_call_use_their_own_settings(logits):
    heat, count = np.resize([0.0, 0.5, 2.0], ROWS), np.repeat([0, 5], ROWS // 2)
    token, logp, _ = sample(logits, slots(ROWS, temperature=heat, top_k=count), truncated=True)
    assert (token[heat == 0] == np.argmax(logits)).all() and (logp[heat == 0, 1][count[heat == 0] == 0] < 0).all()
    best = np.argsort(-logits)[:5]
    assert np.isin(token[count == 5], best).all() and not np.isin(token[(count == 0) & (heat == 2)], best).all()
    for temperature in (0.5, 2.0):
        here = (heat == temperature) & (count == 0)
        expected = probabilities(logits, temperature=temperature)
        np.testing.assert_allclose(np.isin(token[here], best).mean(), expected[best].sum(), atol=0.06)


def test_greedy_takes_the_first_of_equal_logits():
    logits = np.zeros(640, np.float32)
    logits[[200, 201, 500]] = 3.0
    token, *_ = sample(logits, slots(8, temperature=0.0), truncated=False)
    assert (token == 200).all()


@pytest.mark.parametrize("settings", [{"top_p": 1e-40}, {"top_p": 1e-40, "temperature": 0.0}, {"min_p": 1.0}])
def test_the_narrowest_truncation_keeps_the_likeliest_token(logits, settings):
    token, logp, broken = sample(logits, slots(8, **settings), truncated=True)
    assert (token == np.argmax(logits)).all() and (logp[:, 1] == 0).all() and not broken.any()


def test_logits_that_are_not_finite_are_reported(logits):
    for value in (np.nan, np.inf):
        broken = sample(np.where(np.arange(len(logits)) == 5, value, logits).astype(np.float32), slots(8), False)[2]
        assert broken.all()

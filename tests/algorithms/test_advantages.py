"""Golden numbers computed by hand, and laws: groups are independent, padding has no effect."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.algorithms.advantages import (
    ADVANTAGES,
    compute_advantages,
    gae,
    group_center,
    group_zscore,
    leave_one_out,
    overlong_penalty,
    returns_to_go,
    whiten_tokens,
    zero_variance,
)

pytestmark = pytest.mark.check

REWARDS = jnp.array([[3.0, -3.0, -0.5, -0.5], [1.0, 1.0, 1.0, 1.0]])
MASK = jnp.array([[0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]], jnp.float32)


def test_group_zscore_golden():
    """mean -0.25, squares 10.5625 + 7.5625 + 2 x 0.0625 = 18.25, std sqrt(18.25 / 3) = 2.466441."""
    expected = [[3.25 / 2.466442, -2.75 / 2.466442, -0.25 / 2.466442, -0.25 / 2.466442], [0.0] * 4]
    np.testing.assert_allclose(group_zscore(REWARDS), expected, rtol=1e-6)


def test_group_center_and_leave_one_out_golden():
    np.testing.assert_allclose(group_center(REWARDS)[0], [3.25, -2.75, -0.25, -0.25])
    np.testing.assert_allclose(
        leave_one_out(REWARDS)[0], [3 + 4 / 3, -3 - 2 / 3, -0.5 + 0.5 / 3, -0.5 + 0.5 / 3], rtol=1e-6
    )


def test_equal_rewards_give_exact_zeros_even_where_the_mean_rounds():
    equal = jnp.full((1, 7), 0.1)
    assert (group_zscore(equal) == 0).all() and zero_variance(equal).all()
    assert not zero_variance(REWARDS)[0]


def test_a_group_of_one_is_an_error():
    with pytest.raises(ValueError, match="2 or more a prompt, got 1"):
        group_zscore(jnp.ones((3, 1)))


def test_whiten_tokens_golden():
    """Rows of 2, 1, 2 and 4 tokens with values 1, 2, 3 and 4: population mean and variance over 9 tokens."""
    values = np.array([1, 1, 2, 3, 3, 4, 4, 4, 4])
    white = (values - values.mean()) / values.std()
    got = np.asarray(whiten_tokens(jnp.array([1.0, 2.0, 3.0, 4.0])[:, None] * jnp.ones_like(MASK), MASK))
    np.testing.assert_allclose(got[np.asarray(MASK) > 0], white, rtol=1e-5)
    assert (got[np.asarray(MASK) == 0] == 0).all()


def test_gae_golden():
    """gamma 0.5, lambda 0.5, by hand: A_2 = 1 - 0.4 = 0.6; A_1 = 0 + 0.5 x 0.4 - 0.2 + 0.25 x 0.6 = 0.15."""
    nan = jnp.nan
    rewards, values = jnp.array([[nan, 0.0, nan, 1.0]]), jnp.array([[nan, 0.2, nan, 0.4]])
    advantages, returns = gae(rewards, values, jnp.array([[0.0, 1.0, 0.0, 1.0]]), 0.5, 0.5)
    np.testing.assert_allclose(advantages, [[0, 0.15, 0, 0.6]], rtol=1e-6)
    np.testing.assert_allclose(returns, [[0, 0.35, 0, 1.0]], rtol=1e-6)


def test_returns_to_go_golden():
    rewards = jnp.array([[9.0, 1.0, 2.0, 9.0]])
    got = returns_to_go(rewards, jnp.array([[0.0, 1.0, 1.0, 0.0]]), 0.5)
    np.testing.assert_allclose(got, [[0, 2, 2, 0]])


def test_overlong_penalty_golden():
    got = overlong_penalty(jnp.array([5, 6, 8, 10, 20]), 10, 4)
    np.testing.assert_allclose(got, [0, 0, -0.5, -1, -1])
    with pytest.raises(ValueError, match="1 to 10 tokens"):
        overlong_penalty(jnp.array([5]), 10, 0)


@pytest.mark.parametrize("name", ADVANTAGES)
def test_masked_values_and_padding_have_no_effect(name):
    rewards = jnp.array([[3.0, -1.0], [0.5, -3.0]])
    penalty = 0.1 * jnp.arange(16.0).reshape(4, 4)
    values, greedy = jnp.sin(jnp.arange(16.0)).reshape(4, 4), jnp.array([1.0, -2.0])
    hidden, wider = lambda x: jnp.where(MASK > 0, x, jnp.nan), lambda x: jnp.pad(x, ((0, 0), (0, 3)))
    clean = compute_advantages(name, rewards, MASK, penalty, values=values, greedy=greedy)
    dirty = compute_advantages(name, rewards, MASK, hidden(penalty), values=hidden(values), greedy=greedy)
    longer = compute_advantages(name, rewards, wider(MASK), wider(penalty), values=wider(values), greedy=greedy)
    np.testing.assert_array_equal(clean, dirty)
    np.testing.assert_allclose(longer[:, :4], clean, rtol=1e-6)
    assert (np.asarray(clean)[np.asarray(MASK) == 0] == 0).all() and np.abs(clean).max() > 0


def test_whitened_returns_golden():
    """REINFORCE++: returns 3 - 0.6 and 3 - 0.1 of the first row, -1 of the second, whitened over three tokens."""
    mask, penalty = jnp.array([[1.0, 1.0], [1.0, 0.0]]), jnp.array([[0.5, 0.1], [0.0, 0.0]])
    raw = np.array([3 - 0.6, 3 - 0.1, -1.0])
    got = compute_advantages("whitened_returns", jnp.array([[3.0, -1.0]]), mask, penalty)
    np.testing.assert_allclose(np.asarray(got)[np.asarray(mask) > 0], (raw - raw.mean()) / raw.std(), rtol=1e-5)


def test_errors_name_what_was_expected():
    with pytest.raises(ValueError, match=r"group_zscore, .* got 'zscore'"):
        compute_advantages("zscore", REWARDS, MASK)
    with pytest.raises(ValueError, match="'whitened_gae' needs the critic's values, got None"):
        compute_advantages("whitened_gae", jnp.ones((2, 2)), MASK)
    with pytest.raises(ValueError, match="'greedy_baseline' needs the rewards of greedy completions"):
        compute_advantages("greedy_baseline", jnp.ones((2, 2)), MASK)
    with pytest.raises(ValueError, match="P x G = 8, got 4"):
        compute_advantages("group_zscore", REWARDS, MASK)

"""Advantage estimators: from the rewards of a step, [P, G], to one number per token, [B, T].

The equations come first. The table `ADVANTAGES` at the end has each of them as a function of `AdvantageInputs`.
Rows are prompt-major: the G samples of the first prompt, then those of the second.
"""

import enum
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl.algorithms.masked import hide

WHITEN_EPS = 1e-8


def group_zscore(rewards: Float[Array, "P G"], eps: float = 1e-6) -> Float[Array, "P G"]:
    """(r - mean) / (std + eps) within each group, std with ddof 1 (GRPO, arXiv 2402.03300, section 4.1.2).

    A group of equal rewards gets exact zeros. Raises ValueError for groups of one sample.
    """
    centered = group_center(rewards)
    samples = rewards.shape[1]
    std = jnp.sqrt(jnp.sum(jnp.square(centered), axis=1, keepdims=True) / (samples - 1))
    return centered / (std + eps)


def group_center(rewards: Float[Array, "P G"]) -> Float[Array, "P G"]:
    """r - mean within each group, exact zeros for equal rewards (Dr.GRPO, arXiv 2503.20783, section 3.2)."""
    _expect_group(rewards)
    centered = rewards - jnp.mean(rewards, axis=1, keepdims=True)
    return jnp.where(zero_variance(rewards)[:, None], jnp.zeros_like(rewards), centered)


def leave_one_out(rewards: Float[Array, "P G"]) -> Float[Array, "P G"]:
    """r minus the mean of the other samples of its group (RLOO, arXiv 2402.14740, section 3.3)."""
    centered, samples = group_center(rewards), rewards.shape[1]
    return centered * (samples / (samples - 1))


def zero_variance(rewards: Float[Array, "P G"]) -> Bool[Array, " P"]:
    """True for groups whose samples all have the same reward; their group advantages are 0."""
    return jnp.max(rewards, axis=1) == jnp.min(rewards, axis=1)


def whiten_tokens(values: Float[Array, "B T"], mask: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """(v - mean) / sqrt(max(variance, 1e-8)) over the tokens of the mask, population variance.

    Source: REINFORCE++, arXiv 2501.03262, equation 5 (normalisation over the global batch). `masked_whiten` of verl and
    TRL divides by n - 1 instead of n tokens, so its advantages are sqrt((n - 1) / n) times these.
    """
    count = jnp.maximum(jnp.sum(mask), 1.0)
    centered = hide(values - jnp.sum(hide(values, mask)) / count, mask)
    variance = jnp.sum(jnp.square(centered)) / count
    return centered * jax.lax.rsqrt(jnp.maximum(variance, WHITEN_EPS))


def token_rewards(
    rewards: Float[Array, " B"], mask: Float[Array, "B T"], penalty: Float[Array, "B T"]
) -> Float[Array, "B T"]:
    """The row's reward at its last token, minus the penalty of each token (KL in the reward)."""
    positions = jnp.arange(mask.shape[1])
    last = jnp.max(jnp.where(mask > 0, positions[None], -1), axis=1)
    at_end = (positions[None] == last[:, None]).astype(mask.dtype)
    return rewards[:, None] * at_end - hide(penalty, mask)


def returns_to_go(rewards: Float[Array, "B T"], mask: Float[Array, "B T"], gamma: float = 1.0) -> Float[Array, "B T"]:
    """Sum over t' >= t of gamma^(t' - t) r_t', over the tokens of the mask; zeros elsewhere."""
    advantages, _ = gae(rewards, jnp.zeros_like(rewards), mask, gamma, 1.0)
    return advantages


def gae(
    rewards: Float[Array, "B T"],
    values: Float[Array, "B T"],
    mask: Float[Array, "B T"],
    gamma: float,
    lam: float,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Advantages A_t = delta_t + gamma lam A_(t+1), and returns A_t + V_t.

    delta_t = r_t + gamma V_(t+1) - V_t, with 0 as the value after the last token. Tokens outside the mask are skipped
    and get zeros. Source: GAE, arXiv 1506.02438, equation 16.
    """

    def backward_step(carry, inputs):
        next_advantage, next_value = carry
        reward, value, kept = inputs
        advantage = reward + gamma * next_value - value + gamma * lam * next_advantage
        advantage = jnp.where(kept > 0, advantage, next_advantage)
        return (advantage, jnp.where(kept > 0, value, next_value)), advantage

    rewards, values = hide(rewards, mask), hide(values, mask)
    zeros = jnp.zeros(mask.shape[:1], rewards.dtype)
    _, advantages = jax.lax.scan(backward_step, (zeros, zeros), (rewards.T, values.T, mask.T), reverse=True)
    advantages = hide(advantages.T, mask)
    return advantages, advantages + values


def overlong_penalty(lengths: Int[Array, " B"], limit: int, buffer: int) -> Float[Array, " B"]:
    """0 up to `limit - buffer` tokens, then linear down to -1 at `limit` (DAPO, arXiv 2503.14476, equation 13).

    lengths: sampled tokens per row, including the first EOS. Raises ValueError unless 0 < buffer <= limit.
    """
    if not 0 < buffer <= limit:
        raise ValueError(f"overlong buffer: expected 1 to {limit} tokens (the limit), got {buffer}")
    return jnp.clip((limit - buffer - lengths).astype(jnp.float32) / buffer, -1.0, 0.0)


def value_targets(
    rewards: Float[Array, "P G"],
    mask: Float[Array, "B T"],
    penalty: Float[Array, "B T"],
    values: Float[Array, "B T"],
    gamma: float = 1.0,
    lam: float = 1.0,
) -> Float[Array, "B T"]:
    """The critic's regression targets: returns A + V of `gae`, A before whitening. Zeros outside the mask."""
    return gae(token_rewards(rewards.reshape(-1), mask, penalty), values, mask, gamma, lam)[1]


class AdvantageInputs(NamedTuple):
    """The inputs of an advantage estimator.

    penalty: subtracted from the reward of each token (kl_coefficient times the KL estimate, for KL in the reward).
    values: the critic's predictions before the update. greedy: reward of each prompt's greedy completion.
    """

    rewards: Float[Array, "P G"]
    mask: Float[Array, "B T"]
    penalty: Float[Array, "B T"]
    values: Float[Array, "B T"] | None
    greedy: Float[Array, " P"] | None
    gamma: float
    lam: float


def compute_advantages(
    name: str,
    rewards: Float[Array, "P G"],
    mask: Float[Array, "B T"],
    penalty: Float[Array, "B T"] | None = None,
    *,
    values: Float[Array, "B T"] | None = None,
    greedy: Float[Array, " P"] | None = None,
    gamma: float = 1.0,
    lam: float = 1.0,
) -> Float[Array, "B T"]:
    """Advantages of a step by the estimator `name` of `ADVANTAGES`; zeros outside `mask`. See `AdvantageInputs`.

    Raises ValueError for an unknown name, for B other than P x G, and if required values or greedy rewards are missing.
    """
    if name not in ADVANTAGES:
        raise ValueError(f"advantage: expected one of {', '.join(ADVANTAGES)}, got {name!r}")
    if rewards.size != mask.shape[0]:
        raise ValueError(f"advantages: expected mask rows = P x G = {rewards.size}, got {mask.shape[0]}")
    equation, needs, _ = ADVANTAGES[name]
    if (needs is Needs.CRITIC and values is None) or (needs is Needs.GREEDY and greedy is None):
        missing = "the critic's values" if needs is Needs.CRITIC else "the rewards of greedy completions"
        raise ValueError(f"advantage {name!r} needs {missing}, got None; pass them, or choose another advantage")
    penalty = jnp.zeros_like(mask) if penalty is None else hide(penalty, mask)
    return equation(AdvantageInputs(rewards, mask, penalty, values, greedy, gamma, lam))


def _by_row(equation):
    """A [P, G] equation as a function of `AdvantageInputs`. The penalties of a row are subtracted from its reward."""

    def advantages(s):
        rows = equation(s.rewards - jnp.sum(s.penalty, axis=1).reshape(s.rewards.shape)).reshape(-1)
        return hide(jnp.broadcast_to(rows[:, None], s.mask.shape), s.mask)

    return advantages


def _returns(s):
    """Returns to go of the final reward minus the penalties."""
    return returns_to_go(token_rewards(s.rewards.reshape(-1), s.mask, s.penalty), s.mask, s.gamma)


def _whitened_returns(s):
    """REINFORCE++ (arXiv 2501.03262, equations 4 and 5): returns to go, whitened over the tokens of the batch."""
    return whiten_tokens(_returns(s), s.mask)


def _whitened_center(s):
    """REINFORCE++-baseline (section 3.2): reward minus the group's mean, whitened over the tokens of the batch."""
    return whiten_tokens(_by_row(group_center)(s), s.mask)


def _greedy_baseline(s):
    """Returns to go minus the reward of the prompt's greedy completion (ReMax, arXiv 2310.10505, equation 5)."""
    baseline = jnp.repeat(s.greedy, s.rewards.shape[1])
    return hide(_returns(s) - baseline[:, None], s.mask)


def _whitened_gae(s):
    """GAE of the final reward minus the penalties, whitened over the tokens of the batch (PPO)."""
    rewards = token_rewards(s.rewards.reshape(-1), s.mask, s.penalty)
    return whiten_tokens(gae(rewards, s.values, s.mask, s.gamma, s.lam)[0], s.mask)


def _supervised(s):
    """1 on every loss token: cross-entropy training as a policy gradient."""
    return s.mask


def _expect_group(rewards):
    if rewards.shape[1] < 2:
        raise ValueError(
            "a group advantage compares the samples of a prompt: expected 2 or more a prompt, got "
            f"{rewards.shape[1]}; raise the number of samples or use advantage 'whitened_returns'"
        )


class Needs(enum.Enum):
    """What an advantage estimator needs besides rewards."""

    NOTHING = "nothing"
    GROUP = "2 or more samples a prompt"
    CRITIC = "a critic's values"
    GREEDY = "the reward of a greedy completion a prompt"
    SOLVER = "responses written by the task's solver instead of samples"


class Advantage(NamedTuple):
    """A row of `ADVANTAGES`: a function from `AdvantageInputs` to [B, T], and what it needs besides rewards.

    over_time: the advantage of a token depends on later rewards of its row, discounted by gamma.
    """

    equation: Callable[[AdvantageInputs], Array]
    needs: Needs = Needs.NOTHING
    over_time: bool = False


ADVANTAGES: dict[str, Advantage] = {
    "group_zscore": Advantage(_by_row(group_zscore), Needs.GROUP),
    "group_center": Advantage(_by_row(group_center), Needs.GROUP),
    "leave_one_out": Advantage(_by_row(leave_one_out), Needs.GROUP),
    "whitened_returns": Advantage(_whitened_returns, over_time=True),
    "whitened_center": Advantage(_whitened_center, Needs.GROUP),
    "greedy_baseline": Advantage(_greedy_baseline, Needs.GREEDY, over_time=True),
    "whitened_gae": Advantage(_whitened_gae, Needs.CRITIC, over_time=True),
    "supervised": Advantage(_supervised, Needs.SOLVER),
}

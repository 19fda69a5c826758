"""How much better a sample was than expected: from the rewards of a step to one number a token.

The equations come first; the table `ADVANTAGES` at the end makes each a function from what a step knows, `Signals`,
to [B, T]. Rows are prompt-major: G samples of the first of P prompts, then those of the second.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl.algorithms.masked import hide

WHITEN_EPS = 1e-8


def group_zscore(rewards: Float[Array, "P G"], eps: float = 1e-6) -> Float[Array, "P G"]:
    """(r - mean) / (std + eps) within each group, std with ddof 1 (GRPO, arXiv 2402.03300, section 4.1.2).

    A group whose rewards are all equal gives exact zeros. Raises ValueError for a group of one.
    """
    centered = group_center(rewards)
    samples = rewards.shape[1]
    std = jnp.sqrt(jnp.sum(jnp.square(centered), axis=1, keepdims=True) / (samples - 1))
    return centered / (std + eps)


def group_center(rewards: Float[Array, "P G"]) -> Float[Array, "P G"]:
    """r - mean within each group, exact zeros where all are equal (Dr.GRPO, arXiv 2503.20783, 3.2)."""
    _expect_group(rewards)
    centered = rewards - jnp.mean(rewards, axis=1, keepdims=True)
    return jnp.where(zero_variance(rewards)[:, None], jnp.zeros_like(rewards), centered)


def leave_one_out(rewards: Float[Array, "P G"]) -> Float[Array, "P G"]:
    """r minus the mean of the other samples of its group (RLOO, arXiv 2402.14740, section 3.3)."""
    centered, samples = group_center(rewards), rewards.shape[1]
    return centered * (samples / (samples - 1))


def zero_variance(rewards: Float[Array, "P G"]) -> Bool[Array, " P"]:
    """Groups whose samples all got the same reward: they teach nothing."""
    return jnp.max(rewards, axis=1) == jnp.min(rewards, axis=1)


def batch_whiten(rewards: Float[Array, " B"], mask: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """Each row's reward on its tokens, whitened over all tokens of the batch; zeros off the mask."""
    return whiten_tokens(jnp.broadcast_to(rewards[:, None], mask.shape), mask)


def whiten_tokens(values: Float[Array, "B T"], mask: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """(v - mean) / sqrt(max(variance, 1e-8)) over the tokens of the mask, population variance.

    Source: REINFORCE++, arXiv 2501.03262, equation 5 (normalisation over the global batch). `masked_whiten` of verl and
    TRL divides by n - 1 in place of n tokens: its advantages are sqrt((n - 1) / n) times these.
    """
    count = jnp.maximum(jnp.sum(mask), 1.0)
    centered = hide(values - jnp.sum(hide(values, mask)) / count, mask)
    variance = jnp.sum(jnp.square(centered)) / count
    return centered * jax.lax.rsqrt(jnp.maximum(variance, WHITEN_EPS))


def token_rewards(
    rewards: Float[Array, " B"], mask: Float[Array, "B T"], penalty: Float[Array, "B T"]
) -> Float[Array, "B T"]:
    """The row's reward on its last token, minus the penalty of each token (KL in the reward)."""
    places = jnp.arange(mask.shape[1])
    last = jnp.max(jnp.where(mask > 0, places[None], -1), axis=1)
    at_end = (places[None] == last[:, None]).astype(mask.dtype)
    return rewards[:, None] * at_end - hide(penalty, mask)


def returns_to_go(rewards: Float[Array, "B T"], mask: Float[Array, "B T"], gamma: float = 1.0) -> Float[Array, "B T"]:
    """sum over t' >= t of gamma^(t' - t) r_t', over the tokens of the mask; zeros elsewhere."""
    advantages, _ = gae(rewards, jnp.zeros_like(rewards), mask, gamma, 1.0)
    return advantages


def gae(
    rewards: Float[Array, "B T"],
    values: Float[Array, "B T"],
    mask: Float[Array, "B T"],
    gamma: float,
    lam: float,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Advantages and returns (advantage + value), A_t = delta_t + gamma lam A_(t+1).

    Source: arXiv 1506.02438, equation 16.

    delta_t = r_t + gamma V_(t+1) - V_t, the value after the last token is 0. Tokens off the mask are stepped
    over as if they were not there, and get zeros.
    """

    def back(carry, column):
        advantage, value = carry
        reward, here, kept = column
        new = reward + gamma * value - here + gamma * lam * advantage
        advantage, value = jnp.where(kept > 0, new, advantage), jnp.where(kept > 0, here, value)
        return (advantage, value), advantage

    rewards, values = hide(rewards, mask), hide(values, mask)
    nothing = jnp.zeros(mask.shape[:1], rewards.dtype)
    _, columns = jax.lax.scan(back, (nothing, nothing), (rewards.T, values.T, mask.T), reverse=True)
    advantages = hide(columns.T, mask)
    return advantages, advantages + values


def overlong_penalty(lengths: Int[Array, " B"], limit: int, buffer: int) -> Float[Array, " B"]:
    """0 up to `limit - buffer` tokens, then down linearly to -1 at `limit` (DAPO, arXiv 2503.14476, eq. 13).

    `lengths` counts new tokens, the first EOS included. Raises ValueError unless 0 < buffer <= limit.
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
    """The returns that a critic learns, A + V with the A of `gae` before whitening; zeros off the mask."""
    return gae(token_rewards(rewards.reshape(-1), mask, penalty), values, mask, gamma, lam)[1]


class Signals(NamedTuple):
    """What the advantages of a step are computed from.

    penalty: taken from the reward token by token (kl_coefficient times the estimate, for KL in the reward). values: of
    the critic before the update. greedy: reward of each prompt's greedy completion.
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
    """Advantages of a step by the table's `name`; zeros off `mask`. For the arguments see `Signals`.

    Raises ValueError for an unknown name, where B is not P x G, and where values or greedy rewards are missing.
    """
    if name not in ADVANTAGES:
        raise ValueError(f"advantage: expected one of {', '.join(ADVANTAGES)}, got {name!r}")
    if rewards.size != mask.shape[0]:
        raise ValueError(f"advantages: expected mask rows = P x G = {rewards.size}, got {mask.shape[0]}")
    equation, needs, _ = ADVANTAGES[name]
    if (needs == "critic" and values is None) or (needs == "greedy" and greedy is None):
        missing = "the critic's values" if needs == "critic" else "the rewards of greedy completions"
        raise ValueError(f"advantage {name!r} needs {missing}, got None; pass them, or choose another advantage")
    penalty = jnp.zeros_like(mask) if penalty is None else hide(penalty, mask)
    return equation(Signals(rewards, mask, penalty, values, greedy, gamma, lam))


def _by_row(equation):
    """A [P, G] equation as a table entry: the penalty of a row is summed into its reward."""

    def advantages(s):
        rows = equation(s.rewards - jnp.sum(s.penalty, axis=1).reshape(s.rewards.shape)).reshape(-1)
        return hide(jnp.broadcast_to(rows[:, None], s.mask.shape), s.mask)

    return advantages


def _returns(s):
    """Return to go of the end reward minus the penalties."""
    return returns_to_go(token_rewards(s.rewards.reshape(-1), s.mask, s.penalty), s.mask, s.gamma)


def _whitened_returns(s):
    """REINFORCE++ (arXiv 2501.03262, equations 4 and 5): returns to go, whitened over the batch's tokens."""
    return whiten_tokens(_returns(s), s.mask)


def _whitened_center(s):
    """REINFORCE++-baseline: minus the group's mean, then whitened over the batch's tokens."""
    return whiten_tokens(_by_row(group_center)(s), s.mask)


def _greedy_baseline(s):
    """Return to go minus the reward of the prompt's greedy completion (ReMax, arXiv 2310.10505, equation 5)."""
    baseline = jnp.repeat(s.greedy, s.rewards.shape[1])
    return hide(_returns(s) - baseline[:, None], s.mask)


def _whitened_gae(s):
    """Generalised advantages of the end reward minus the penalties, whitened over the batch's tokens (PPO)."""
    rewards = token_rewards(s.rewards.reshape(-1), s.mask, s.penalty)
    return whiten_tokens(gae(rewards, s.values, s.mask, s.gamma, s.lam)[0], s.mask)


def _taught(s):
    """1 on every token: the cross entropy of supervised training as a policy gradient."""
    return s.mask


def _expect_group(rewards):
    if rewards.shape[1] < 2:
        raise ValueError(
            "a group advantage compares samples of one prompt: expected 2 or more a prompt, got "
            f"{rewards.shape[1]}; raise the number of samples or take advantage 'whitened_returns'"
        )


class Advantage(NamedTuple):
    """A row of the table: [B, T] from `Signals`, and what it needs besides the rewards.

    needs: "group" (2 or more samples a prompt), "critic" (values), "greedy" (a greedy completion a prompt),
    "solver" (responses that the task's solver writes, in place of samples), or "". over_time: whether tokens of a row
    differ by what comes after them, discounted by gamma.
    """

    equation: Callable[[Signals], Array]
    needs: str = ""
    over_time: bool = False


ADVANTAGES: dict[str, Advantage] = {
    "group_zscore": Advantage(_by_row(group_zscore), "group"),
    "group_center": Advantage(_by_row(group_center), "group"),
    "leave_one_out": Advantage(_by_row(leave_one_out), "group"),
    "whitened_returns": Advantage(_whitened_returns, over_time=True),
    "whitened_center": Advantage(_whitened_center, "group"),
    "greedy_baseline": Advantage(_greedy_baseline, "greedy", over_time=True),
    "whitened_gae": Advantage(_whitened_gae, "critic", over_time=True),
    "taught": Advantage(_taught, "solver"),
}

"""How much better a sample was than expected: from the rewards of a step to one number a token.

Functions take rewards [P, G] (G samples of each of P prompts), mask [B, T] and penalty [B, T], rows
prompt-major, and return [B, T] when they stand in the table `ADVANTAGES`; the plain equations above it work
on [P, G] or [B].
"""

from collections.abc import Callable

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
    samples = rewards.shape[1]
    return group_center(rewards) * (samples / max(samples - 1, 1))


def zero_variance(rewards: Float[Array, "P G"]) -> Bool[Array, " P"]:
    """Groups whose samples all got the same reward: they teach nothing."""
    return jnp.max(rewards, axis=1) == jnp.min(rewards, axis=1)


def batch_whiten(rewards: Float[Array, " B"], mask: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """Each row's reward on its tokens, whitened over all tokens of the batch; zeros off the mask."""
    return whiten_tokens(jnp.broadcast_to(rewards[:, None], mask.shape), mask)


def whiten_tokens(values: Float[Array, "B T"], mask: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """(v - mean) / sqrt(max(variance, 1e-8)) over the tokens of the mask, population variance.

    Source: REINFORCE++, arXiv 2501.03262, equation 5 (normalisation over the global batch).
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


def returns_to_go(
    rewards: Float[Array, "B T"], mask: Float[Array, "B T"], gamma: float = 1.0
) -> Float[Array, "B T"]:
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


def compute_advantages(
    name: str,
    rewards: Float[Array, "P G"],
    mask: Float[Array, "B T"],
    penalty: Float[Array, "B T"] | None = None,
) -> Float[Array, "B T"]:
    """Advantages of a step by the table's `name`; zeros off `mask`.

    `penalty` is what is taken from the reward token by token (kl_coefficient times k1, for KL in the reward).
    Raises ValueError for an unknown name, and where B is not P x G.
    """
    if name not in ADVANTAGES:
        raise ValueError(f"advantage: expected one of {', '.join(ADVANTAGES)}, got {name!r}")
    if rewards.size != mask.shape[0]:
        raise ValueError(f"advantages: expected mask rows = P x G = {rewards.size}, got {mask.shape[0]}")
    penalty = jnp.zeros_like(mask) if penalty is None else hide(penalty, mask)
    return ADVANTAGES[name](rewards, mask, penalty)


def _by_row(equation):
    """A [P, G] equation as a table entry: the penalty of a row is summed into its reward."""

    def advantages(rewards, mask, penalty):
        rows = equation(rewards - jnp.sum(penalty, axis=1).reshape(rewards.shape)).reshape(-1)
        return hide(jnp.broadcast_to(rows[:, None], mask.shape), mask)

    return advantages


def _whitened_returns(rewards, mask, penalty):
    """REINFORCE++: return to go of the end reward minus the penalties, whitened over the batch's tokens."""
    return whiten_tokens(returns_to_go(token_rewards(rewards.reshape(-1), mask, penalty), mask), mask)


def _whitened_center(rewards, mask, penalty):
    """REINFORCE++-baseline: minus the group's mean, then whitened over the batch's tokens."""
    return whiten_tokens(_by_row(group_center)(rewards, mask, penalty), mask)


def _expect_group(rewards):
    if rewards.shape[1] < 2:
        raise ValueError(
            "a group advantage compares samples of one prompt: expected 2 or more a prompt, got "
            f"{rewards.shape[1]}; raise the number of samples or take advantage 'whitened_returns'"
        )


ADVANTAGES: dict[str, Callable[[Array, Array, Array], Array]] = {
    "group_zscore": _by_row(group_zscore),
    "group_center": _by_row(group_center),
    "leave_one_out": _by_row(leave_one_out),
    "whitened_returns": _whitened_returns,
    "whitened_center": _whitened_center,
}
"""name -> function(rewards[P, G], mask[B, T], penalty[B, T]) -> advantages[B, T]."""

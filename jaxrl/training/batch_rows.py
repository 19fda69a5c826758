"""From a scored rollout to the batch that the update reads."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.algorithms.advantages import compute_advantages, overlong_penalty, value_targets
from jaxrl.algorithms.batch import Batch
from jaxrl.algorithms.losses import LossSpec
from jaxrl.training.rollout import Rollout

_advantages = jax.jit(compute_advantages, static_argnums=0, static_argnames=("gamma", "lam"))
_targets = jax.jit(value_targets, static_argnames=("gamma", "lam"))


def make_batch(rollout: Rollout, longest: int) -> Batch:
    """The batch of a rollout: rows of prompt and response, right-padded to `longest` tokens. Arrays are on the host.

    B = P * G rows, prompt-major. One shape for the whole run, so nothing recompiles. Advantages are zeros until
    `add_advantages`.
    """
    group = rollout.rewards.shape[1]
    prompt_lengths = np.repeat(np.array([len(prompt) for prompt in rollout.prompts], np.int32), group)
    lengths = prompt_lengths + rollout.completions.lengths.astype(np.int32)
    shape = (len(lengths), longest)
    tokens, loss_mask, sample_logp = np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for row, (start, end) in enumerate(zip(prompt_lengths, lengths, strict=True)):
        tokens[row, :start] = rollout.prompts[row // group]
        tokens[row, start:end] = rollout.completions.tokens[row, : end - start]
        loss_mask[row, start:end] = 1
        sample_logp[row, start:end] = rollout.completions.logp[row, : end - start]
    return Batch(tokens, lengths, loss_mask, np.zeros(shape, np.float32), sample_logp=sample_logp)


def add_advantages(
    batch: Batch, rollout: Rollout, loss: LossSpec, max_new_tokens: int, kl_penalty: np.ndarray | None = None
) -> Batch:
    """The batch with the recipe's advantages and, if it has a critic's values, the critic's targets.

    kl_penalty: [B, T], subtracted from the reward of each token (None: no KL in the reward).
    """
    rewards, greedy = shaped_rewards(rollout, loss, max_new_tokens)
    kl_penalty = np.zeros_like(batch.loss_mask) if kl_penalty is None else kl_penalty
    rewards, mask, kl_penalty, values, greedy = jax.tree.map(
        jnp.asarray, (rewards, batch.loss_mask, kl_penalty, batch.values, greedy)
    )
    discounts = {"gamma": loss.gamma, "lam": loss.lam}
    advantages = _advantages(loss.advantage, rewards, mask, kl_penalty, values=values, greedy=greedy, **discounts)
    returns = None if values is None else np.asarray(_targets(rewards, mask, kl_penalty, values, **discounts))
    return batch._replace(advantages=np.asarray(advantages), returns=returns)


def shaped_rewards(rollout: Rollout, loss: LossSpec, max_new_tokens: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The rule's rewards [P, G] lowered by the overlong penalty, and the same of the greedy completions [P], if any.

    Advantages are computed from these. The rollout keeps the rule's own rewards.
    """
    if not loss.overlong_buffer:
        return rollout.rewards, rollout.greedy
    buffer = max(1, round(loss.overlong_buffer * max_new_tokens))

    def shaped(rewards: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        penalty = overlong_penalty(jnp.asarray(lengths, jnp.int32), max_new_tokens, buffer)
        return rewards + np.asarray(penalty).reshape(rewards.shape)

    greedy = None if rollout.greedy is None else shaped(rollout.greedy, rollout.greedy_lengths)
    return shaped(rollout.rewards, rollout.completions.lengths), greedy

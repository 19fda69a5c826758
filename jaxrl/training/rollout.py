"""One rollout: prompts to completions to verdicts, rewards and advantages, as the batch that the update reads."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.algorithms.advantages import compute_advantages, overlong_penalty, value_targets
from jaxrl.algorithms.batch import Batch
from jaxrl.algorithms.losses import LossSpec
from jaxrl.reporting.rollouts import GroupRecord, ResponseRecord
from jaxrl.rewards import Verdict
from jaxrl.sampling import Completions
from jaxrl.tasks.problem import Problem
from jaxrl.tasks.prompting import PromptFormat

_advantages = jax.jit(compute_advantages, static_argnums=0, static_argnames=("gamma", "lam"))
_targets = jax.jit(value_targets, static_argnames=("gamma", "lam"))


class Rollout(NamedTuple):
    """P problems with G completions each, prompt-major, and what the rule says of them.

    greedy, greedy_lengths: the rewards [P] of one more completion of each, drawn greedily, where the algorithm asks for
    it, and its tokens.
    """

    problems: list[Problem]
    prompts: list[list[int]]
    completions: Completions
    responses: list[str]
    verdicts: list[Verdict]
    greedy: np.ndarray | None = None
    greedy_lengths: np.ndarray | None = None

    @property
    def rewards(self) -> np.ndarray:
        """The rule's totals [P, G], float32."""
        totals = np.array([verdict.reward for verdict in self.verdicts], np.float32)
        return totals.reshape(len(self.problems), len(totals) // max(len(self.problems), 1))


def score_completions(
    prompt_format: PromptFormat,
    problems: list[Problem],
    prompts: list[list[int]],
    completions: Completions,
    samples: int,
) -> Rollout:
    """Decode and judge every completion. One more than `samples` a problem is its greedy one."""
    group = len(completions.lengths) // len(problems)
    responses, verdicts = [], []
    for row, length in enumerate(completions.lengths):
        response = prompt_format.decode(completions.tokens[row, :length].tolist())
        responses.append(response)
        verdicts.append(prompt_format.judge(problems[row // group], response, not completions.finished[row]))
    if group == samples:
        return Rollout(problems, prompts, completions, responses, verdicts)
    drawn = [row for row in range(len(verdicts)) if row % group < samples]
    greedy = np.array([verdict.reward for verdict in verdicts[samples::group]], np.float32)
    return Rollout(
        problems,
        prompts,
        _rows(completions, drawn),
        [responses[row] for row in drawn],
        [verdicts[row] for row in drawn],
        greedy,
        completions.lengths[samples::group],
    )


def join(parts: Sequence[Rollout]) -> Rollout:
    """Several rollouts of one step as one."""
    if len(parts) == 1:
        return parts[0]
    each = [part.completions for part in parts]
    *arrays, occupancy = zip(*each, strict=True)
    tokens = [part.lengths.sum() for part in each]
    completions = Completions(*map(np.concatenate, arrays), float(np.average(occupancy, weights=tokens)))
    greedy = (
        None if parts[0].greedy is None else np.concatenate([getattr(part, field) for part in parts])
        for field in ("greedy", "greedy_lengths")
    )
    problems, prompts, responses, verdicts = (
        [item for part in parts for item in getattr(part, field)]
        for field in ("problems", "prompts", "responses", "verdicts")
    )
    return Rollout(problems, prompts, completions, responses, verdicts, *greedy)


def with_variance(rewards: np.ndarray) -> np.ndarray:
    """Indices of the groups of rewards [P, G] whose samples did not all get the same."""
    return np.flatnonzero(rewards.max(axis=1) != rewards.min(axis=1))


def select(rollout: Rollout, groups: np.ndarray) -> Rollout:
    """Some groups of a rollout, in the order given."""
    if len(groups) == len(rollout.problems):
        return rollout
    size = rollout.rewards.shape[1]
    rows = (groups[:, None] * size + np.arange(size)).reshape(-1)
    greedy = (None if each is None else each[groups] for each in (rollout.greedy, rollout.greedy_lengths))
    return Rollout(
        [rollout.problems[group] for group in groups],
        [rollout.prompts[group] for group in groups],
        _rows(rollout.completions, rows),
        [rollout.responses[row] for row in rows],
        [rollout.verdicts[row] for row in rows],
        *greedy,
    )


def _rows(completions: Completions, rows: Sequence[int]) -> Completions:
    return Completions(*(x[rows] for x in completions[:-1]), completions.occupancy)


def make_batch(rollout: Rollout, longest: int) -> Batch:
    """Rows of prompt and completion, right-padded to `longest`: one shape for a whole run, so nothing recompiles.

    Advantages are filled in by `with_advantages`.
    """
    group = rollout.rewards.shape[1]
    asked = np.repeat(np.array([len(prompt) for prompt in rollout.prompts], np.int32), group)
    drawn = rollout.completions.lengths.astype(np.int32)
    lengths = asked + drawn
    shape = (len(lengths), longest)
    tokens, mask, sampled = np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for row, (start, end) in enumerate(zip(asked, lengths, strict=True)):
        tokens[row, :start] = rollout.prompts[row // group]
        tokens[row, start:end] = rollout.completions.tokens[row, : end - start]
        mask[row, start:end] = 1
        sampled[row, start:end] = rollout.completions.logp[row, : end - start]
    return Batch(tokens, lengths, mask, np.zeros(shape, np.float32), sample_logp=sampled)


def shaped_rewards(rollout: Rollout, loss: LossSpec, limit: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Rewards [P, G] that advantages are computed from, and those [P] of greedy completions where there are some.

    They are the rule's, with the penalty for responses near the limit.
    """
    if not loss.overlong_buffer:
        return rollout.rewards, rollout.greedy
    buffer = max(1, round(loss.overlong_buffer * limit))

    def shaped(rewards: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        penalty = overlong_penalty(jnp.asarray(lengths, jnp.int32), limit, buffer)
        return rewards + np.asarray(penalty).reshape(rewards.shape)

    greedy = None if rollout.greedy is None else shaped(rollout.greedy, rollout.greedy_lengths)
    return shaped(rollout.rewards, rollout.completions.lengths), greedy


def with_advantages(
    batch: Batch, rewards: np.ndarray, greedy: np.ndarray | None, loss: LossSpec, penalty: np.ndarray | None
) -> Batch:
    """The batch with the recipe's advantages, and the critic's targets where it has values.

    `penalty` [B, T] is taken from the reward token by token.
    """
    penalty = np.zeros_like(batch.loss_mask) if penalty is None else penalty
    rewards, mask, penalty, values, greedy = jax.tree.map(
        jnp.asarray, (rewards, batch.loss_mask, penalty, batch.values, greedy)
    )
    discounts = {"gamma": loss.gamma, "lam": loss.lam}
    advantages = _advantages(loss.advantage, rewards, mask, penalty, values=values, greedy=greedy, **discounts)
    returns = None if values is None else np.asarray(_targets(rewards, mask, penalty, values, **discounts))
    return batch._replace(advantages=np.asarray(advantages), returns=returns)


def to_records(
    rollout: Rollout,
    batch: Batch,
    groups: np.ndarray,
    prompt_format: PromptFormat,
    step: int,
    stage: str,
    indices: Sequence[int],
) -> list[GroupRecord]:
    """The rollout as it is stored: every response with its verdict; `groups` are those that `batch` learns from."""
    group = rollout.rewards.shape[1]
    # The advantage of a row's last token: the whole row's, where a recipe has one a row.
    last = batch.advantages[np.arange(len(batch.lengths)), batch.lengths - 1].reshape(-1, group)
    advantages = np.full((len(rollout.problems), group), np.nan, np.float32)
    advantages[groups] = last
    advantages = advantages.reshape(-1)
    records = []
    for place, problem in enumerate(rollout.problems):
        rows = range(place * group, (place + 1) * group)
        responses = tuple(
            ResponseRecord(
                rollout.responses[row],
                verdict.verdict,
                verdict.reasons,
                verdict.suspects,
                verdict.format_reward,
                verdict.answer_reward,
                verdict.reward,
                _finite(advantages[row]),
                int(rollout.completions.lengths[row]),
                bool(rollout.completions.finished[row]),
                prompt_format.classify(rollout.responses[row]),
            )
            for row in rows
            for verdict in (rollout.verdicts[row],)
        )
        prompt = prompt_format.tokenizer.decode(rollout.prompts[place], skip_special_tokens=False)
        records.append(
            GroupRecord(
                step,
                stage,
                int(indices[place]),
                problem.id,
                problem.kind,
                prompt,
                problem.solution,
                responses,
                problem.question,
                problem.names,
            )
        )
    return records


def _finite(value: np.float32) -> float | None:
    """None for a number that JSON lacks: of a group that was not learned from, or of a step that the guard refuses."""
    return float(value) if np.isfinite(value) else None

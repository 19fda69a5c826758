"""One rollout: prompts to completions to verdicts, rewards and advantages, as the batch that the update reads."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.algorithms.advantages import compute_advantages
from jaxrl.algorithms.batch import Batch
from jaxrl.evaluation.problems import Problem
from jaxrl.reporting.rollouts import GroupRecord, ResponseRecord
from jaxrl.rewards import Verdict
from jaxrl.running.tasks import Dialogue
from jaxrl.sampling import Completions

_advantages = jax.jit(compute_advantages, static_argnums=0)


class Rollout(NamedTuple):
    """P problems with G completions each, prompt-major, and what the rule says of them."""

    problems: Sequence[Problem]
    prompts: list[list[int]]
    completions: Completions
    responses: list[str]
    verdicts: list[Verdict]

    @property
    def rewards(self) -> np.ndarray:
        """The rule's totals [P, G], float32."""
        totals = np.array([verdict.reward for verdict in self.verdicts], np.float32)
        return totals.reshape(len(self.problems), -1)


def score_completions(
    dialogue: Dialogue, problems: Sequence[Problem], prompts: list[list[int]], completions: Completions
) -> Rollout:
    """Decode and judge every completion."""
    group = len(completions.lengths) // len(problems)
    responses, verdicts = [], []
    for row, length in enumerate(completions.lengths):
        response = dialogue.decode(completions.tokens[row, :length].tolist())
        responses.append(response)
        verdicts.append(dialogue.judge(problems[row // group], response, not completions.finished[row]))
    return Rollout(problems, prompts, completions, responses, verdicts)


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


def with_advantages(batch: Batch, rollout: Rollout, name: str, penalty: np.ndarray | None) -> Batch:
    """The batch with the advantages of the recipe; `penalty` [B, T] is taken from the reward token by token."""
    arrays = jax.tree.map(jnp.asarray, (rollout.rewards, batch.loss_mask, penalty))
    return batch._replace(advantages=np.asarray(_advantages(name, *arrays)))


def to_records(
    rollout: Rollout, batch: Batch, dialogue: Dialogue, step: int, stage: str, indices: Sequence[int]
) -> list[GroupRecord]:
    """The rollout as it is stored: every response with its verdict."""
    group = rollout.rewards.shape[1]
    last = batch.lengths - 1  # an advantage of the row's last token: the whole row's, where a recipe has one a row
    records = []
    for place, problem in enumerate(rollout.problems):
        rows = range(place * group, (place + 1) * group)
        responses = tuple(
            ResponseRecord(
                rollout.responses[row], verdict.verdict, verdict.reasons, verdict.suspects, verdict.format_reward,
                verdict.answer_reward, verdict.reward, _finite(batch.advantages[row, last[row]]),
                int(rollout.completions.lengths[row]), bool(rollout.completions.finished[row]),
                dialogue.way_of(rollout.responses[row]),
            )
            for row in rows for verdict in (rollout.verdicts[row],)
        )
        prompt = dialogue.tokenizer.decode(rollout.prompts[place], skip_special_tokens=False)
        records.append(GroupRecord(step, stage, int(indices[place]), problem.id, problem.kind, prompt,
                                   problem.solution, responses, problem.question, problem.names))
    return records


def _finite(value: np.float32) -> float | None:
    """None for a number that JSON lacks: only a step that the guard refuses has one."""
    return float(value) if np.isfinite(value) else None

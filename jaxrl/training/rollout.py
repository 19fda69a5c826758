"""A rollout: problems, sampled responses and their verdicts; and how one is collected."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np

from jaxrl.algorithms.advantages import Needs
from jaxrl.algorithms.losses import LossSpec
from jaxrl.rewards import Verdict
from jaxrl.sampling import Completions
from jaxrl.tasks.problem import Problem
from jaxrl.tasks.prompting import PromptFormat
from jaxrl.tasks.task import Reasoning
from jaxrl.training.problem_pools import ProblemSet
from jaxrl.training.progress import StepPlan


class Rollout(NamedTuple):
    """P problems with G completions each, and the rule's verdicts. Rows of B = P * G are prompt-major.

    indices: positions [P] of the problems in the stage's pool. reasoning: what the task's verifier finds in each of the
    B responses, None for those that it can't verify; it does not change rewards. greedy, greedy_lengths: reward and
    tokens [P] of one more completion of each problem, decoded greedily, for algorithms that use it as a baseline (else
    None).
    """

    indices: np.ndarray
    problems: list[Problem]
    prompts: list[list[int]]
    completions: Completions
    responses: list[str]
    verdicts: list[Verdict]
    reasoning: Sequence[Reasoning | None] = ()
    greedy: np.ndarray | None = None
    greedy_lengths: np.ndarray | None = None

    @property
    def rewards(self) -> np.ndarray:
        """The rule's total rewards [P, G], float32."""
        totals = np.array([verdict.reward for verdict in self.verdicts], np.float32)
        return totals.reshape(len(self.problems), len(totals) // max(len(self.problems), 1))


def collect_rollout(
    complete: Callable[[np.ndarray, np.ndarray], tuple[list[list[int]], Completions]],
    problem_set: ProblemSet,
    plan: StepPlan,
    loss: LossSpec,
    timed: Callable[[str], AbstractContextManager],
) -> tuple[Rollout, int]:
    """Complete the prompts of a step and score the responses. Returns the rollout and the number of refills.

    complete: (indices [P], samples [G]) -> prompts and completions.
    With dynamic sampling (DAPO, arXiv 2503.14476, section 3.2) each group whose responses all got the same reward is
    replaced by a further problem of the pool, in at most `loss.refills` rounds. The rollout has the groups of all
    rounds; `groups_to_learn_from` selects those of the update.
    """
    stage = plan.stage
    queue = problem_set.select(plan, with_spare=loss.refills > 0)
    samples = np.arange(stage.samples + (loss.needs is Needs.GREEDY))
    parts, used, missing = [], 0, stage.prompts
    while missing and len(parts) <= loss.refills and used < len(queue):
        indices = queue[used : used + missing]
        used += len(indices)
        with timed("rollout"):
            prompts, completions = complete(indices, samples)
        with timed("reward"):
            problems = problem_set.problems(stage.name, indices)
            parts.append(
                score_completions(problems, indices, prompts, completions, stage.samples, problem_set.prompt_format)
            )
        missing -= len(groups_with_variance(parts[-1].rewards)) if loss.refills else missing
    return join_rollouts(parts), len(parts) - 1


def score_completions(
    problems: list[Problem],
    indices: np.ndarray,
    prompts: list[list[int]],
    completions: Completions,
    samples: int,
    prompt_format: PromptFormat,
) -> Rollout:
    """Decode and judge every completion. If a problem has `samples` + 1 of them, the last one is its greedy one."""
    group = len(completions.lengths) // len(problems)
    responses, verdicts, reasoning = [], [], []
    for row, length in enumerate(completions.lengths):
        response = prompt_format.decode(completions.tokens[row, :length].tolist())
        responses.append(response)
        verdicts.append(prompt_format.judge(problems[row // group], response, not completions.finished[row]))
        reasoning.append(prompt_format.check_reasoning(problems[row // group], response))
    if group == samples:
        return Rollout(indices, problems, prompts, completions, responses, verdicts, reasoning)
    sampled = [row for row in range(len(verdicts)) if row % group < samples]
    return Rollout(
        indices,
        problems,
        prompts,
        _rows(completions, sampled),
        [responses[row] for row in sampled],
        [verdicts[row] for row in sampled],
        [reasoning[row] for row in sampled],
        greedy=np.array([verdict.reward for verdict in verdicts[samples::group]], np.float32),
        greedy_lengths=completions.lengths[samples::group],
    )


def join_rollouts(parts: Sequence[Rollout]) -> Rollout:
    """Several rollouts of one step as one."""
    if len(parts) == 1:
        return parts[0]
    *arrays, occupancy = zip(*(part.completions for part in parts), strict=True)
    tokens = [part.completions.lengths.sum() for part in parts]
    completions = Completions(*map(np.concatenate, arrays), float(np.average(occupancy, weights=tokens)))
    problems, prompts, responses, verdicts, reasoning = (
        [item for part in parts for item in getattr(part, field)]
        for field in ("problems", "prompts", "responses", "verdicts", "reasoning")
    )
    greedy = (
        None if parts[0].greedy is None else np.concatenate([getattr(part, field) for part in parts])
        for field in ("greedy", "greedy_lengths")
    )
    indices = np.concatenate([part.indices for part in parts])
    return Rollout(indices, problems, prompts, completions, responses, verdicts, reasoning, *greedy)


def groups_with_variance(rewards: np.ndarray) -> np.ndarray:
    """Indices of the groups of rewards [P, G] whose samples did not all get the same reward."""
    return np.flatnonzero(rewards.max(axis=1) != rewards.min(axis=1))


def groups_to_learn_from(rewards: np.ndarray, loss: LossSpec, prompts: int) -> np.ndarray:
    """Indices of the groups of rewards [P, G] that the update learns from: all, or `prompts` with variance at most."""
    return groups_with_variance(rewards)[:prompts] if loss.drop_equal else np.arange(len(rewards))


def select_groups(rollout: Rollout, groups: np.ndarray) -> Rollout:
    """Some groups of a rollout, in the order given."""
    if len(groups) == len(rollout.problems):
        return rollout
    size = rollout.rewards.shape[1]
    rows = (groups[:, None] * size + np.arange(size)).reshape(-1)
    greedy = (None if each is None else each[groups] for each in (rollout.greedy, rollout.greedy_lengths))
    return Rollout(
        rollout.indices[groups],
        [rollout.problems[group] for group in groups],
        [rollout.prompts[group] for group in groups],
        _rows(rollout.completions, rows),
        [rollout.responses[row] for row in rows],
        [rollout.verdicts[row] for row in rows],
        [rollout.reasoning[row] for row in rows] if rollout.reasoning else (),
        *greedy,
    )


def _rows(completions: Completions, rows: Sequence[int]) -> Completions:
    return Completions(*(x[rows] for x in completions[:-1]), completions.occupancy)

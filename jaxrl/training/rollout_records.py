"""A rollout as it is stored."""

import numpy as np

from jaxrl.reporting.rollouts import GroupRecord, ResponseRecord
from jaxrl.tasks.prompting import PromptFormat
from jaxrl.training.progress import StepPlan
from jaxrl.training.step import Collected


def rollout_records(plan: StepPlan, collected: Collected, prompt_format: PromptFormat) -> list[GroupRecord]:
    """Every response of a step with its verdict, one record per problem.

    Responses of groups that are left out of the update have no advantage. Where advantages differ from token to token,
    the one of the last token is stored.
    """
    rollout, batch = collected.rollout, collected.batch
    group = rollout.rewards.shape[1]
    advantages = np.full((len(rollout.problems), group), np.nan, np.float32)
    last = batch.advantages[np.arange(len(batch.lengths)), batch.lengths - 1]
    advantages[collected.groups] = last.reshape(-1, group)
    records = []
    for number, problem in enumerate(rollout.problems):
        responses = tuple(
            _response_record(collected, row, advantages.flat[row], prompt_format)
            for row in range(number * group, (number + 1) * group)
        )
        prompt = prompt_format.tokenizer.decode(rollout.prompts[number], skip_special_tokens=False)
        records.append(
            GroupRecord(
                plan.step,
                plan.stage.name,
                int(rollout.indices[number]),
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


def _response_record(
    collected: Collected, row: int, advantage: np.float32, prompt_format: PromptFormat
) -> ResponseRecord:
    rollout = collected.rollout
    response, verdict = rollout.responses[row], rollout.verdicts[row]
    reasoning = rollout.reasoning[row] if rollout.reasoning else None
    return ResponseRecord(
        response,
        verdict.verdict,
        verdict.reasons,
        verdict.suspects,
        verdict.format_reward,
        verdict.answer_reward,
        verdict.reward,
        float(advantage) if np.isfinite(advantage) else None,  # JSON has no NaN
        int(rollout.completions.lengths[row]),
        bool(rollout.completions.finished[row]),
        prompt_format.classify(response),
        *(reasoning or ()),
    )

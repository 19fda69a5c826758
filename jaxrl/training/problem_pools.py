"""The problems of a run: held-out ones, a pool for each stage, and which of them a step uses."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxrl.tasks.pools import epoch_indices, select_problems
from jaxrl.tasks.problem import Problem
from jaxrl.tasks.prompting import PromptFormat
from jaxrl.training.progress import StepPlan
from jaxrl.training.run_spec import RunSpec
from models.config import Qwen2Config
from models.folder import read_config
from models.tokenizer import check_vocabulary, eos_ids, load_tokenizer

_SPARE = 0x5BA2E  # separates the random order of spare problems from that of an epoch


@dataclasses.dataclass(frozen=True)
class ProblemSet:
    """Held-out problems, a pool of training problems for each stage (by its name), and the format of their prompts."""

    prompt_format: PromptFormat
    held_out: Sequence[Problem]
    pools: Mapping[str, Sequence[Problem]]

    def select(self, plan: StepPlan, *, with_spare: bool = False) -> np.ndarray:
        """Indices of the problems of a step in its stage's pool: `plan.stage.prompts` of them.

        with_spare: followed by all other problems of the pool, in the order in which dynamic sampling uses them to
        replace groups without variance.
        """
        pool, seed = len(self.pools[plan.stage.name]), (plan.seed, plan.stage_index)
        indices = epoch_indices(pool, plan.stage.prompts, seed, plan.stage_step)
        if not with_spare:
            return indices
        generator = np.random.default_rng(np.random.SeedSequence([*seed, plan.stage_step, _SPARE]))
        order = generator.permutation(pool)
        return np.concatenate([indices, order[~np.isin(order, indices)]])

    def problems(self, stage: str, indices: np.ndarray) -> list[Problem]:
        """The problems at these indices of a stage's pool."""
        return [self.pools[stage][index] for index in indices]

    def prompts(self, stage: str, indices: np.ndarray) -> list[list[int]]:
        """The prompts of the problems at these indices of a stage's pool, as token ids."""
        return [self.prompt_format.encode(problem) for problem in self.problems(stage, indices)]

    def longest_prompt(self) -> int:
        """Tokens of the longest prompt."""
        return max(max(self._lengths(pool)) for pool in (self.held_out, *self.pools.values()))

    def longest_row(self, spec: RunSpec) -> int:
        """Tokens of the longest prompt plus response that the run can produce, training and evaluation."""
        limits = [(self.pools[stage.name], stage.max_new_tokens) for stage in spec.stages]
        limits.append((self.held_out, spec.evaluation.max_new_tokens))
        return max(max(self._lengths(pool)) + limit for pool, limit in limits)

    def _lengths(self, pool: Sequence[Problem]) -> list[int]:
        return [len(self.prompt_format.encode(problem)) for problem in pool]


def load_problem_set(spec: RunSpec, folder: Path) -> tuple[ProblemSet, Qwen2Config]:
    """The problems of a run for the tokenizer in a model folder, and the model's config.

    Raises ValueError if the folder's files do not fit together, or if a training problem is also held out.
    """
    tokenizer = load_tokenizer(folder)
    ends, config = eos_ids(folder, tokenizer), read_config(folder)
    check_vocabulary(tokenizer, config.vocab_size, ends)
    prompt_format = PromptFormat(
        spec.task, spec.prompt, spec.reward.rule, spec.reward.values, tokenizer, ends, spec.stop
    )
    stages = {stage.name: stage.pool for stage in spec.stages}
    held_out, pools = select_problems(spec.task, spec.evaluation.pool, stages, spec.seed)
    return ProblemSet(prompt_format, held_out, pools), config

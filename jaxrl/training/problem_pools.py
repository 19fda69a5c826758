"""What a run asks: its problems, and the prompts that they become."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxrl.tasks.overlap import refuse_overlap
from jaxrl.tasks.problem import Problem
from jaxrl.tasks.prompting import PromptFormat
from jaxrl.training.run_spec import RunSpec
from models.config import Qwen2Config
from models.folder import read_config
from models.tokenizer import check_vocabulary, eos_ids, load_tokenizer


@dataclasses.dataclass(frozen=True)
class ProblemSet:
    """Problems by stage and held-out ones, and how they are put to the model."""

    prompt_format: PromptFormat
    held_out: Sequence[Problem]
    pools: Mapping[str, Sequence[Problem]]

    def longest_prompt(self) -> int:
        """Tokens of the longest prompt."""
        return max(max(self._lengths(pool)) for pool in (self.held_out, *self.pools.values()))

    def longest_row(self, spec: RunSpec) -> int:
        """Tokens of the longest prompt with the longest response that this run can ask for."""
        limits = [(self.pools[stage.name], stage.max_new_tokens) for stage in spec.stages]
        limits.append((self.held_out, spec.evaluation.max_new_tokens))
        return max(max(self._lengths(pool)) + limit for pool, limit in limits)

    def _lengths(self, pool: Sequence[Problem]) -> list[int]:
        return [len(self.prompt_format.encode(problem)) for problem in pool]


def load_problem_set(spec: RunSpec, folder: Path) -> tuple[ProblemSet, Qwen2Config]:
    """The problems of a run, drawn anew, for the tokenizer of a model folder; and the model's shape.

    Raises ValueError where the folder's parts don't fit together, or where training problems are held out too.
    """
    tokenizer = load_tokenizer(folder)
    ends, config = eos_ids(folder, tokenizer), read_config(folder)
    check_vocabulary(tokenizer, config.vocab_size, ends)
    prompt_format = PromptFormat(
        spec.task, spec.prompt, spec.reward.rule, spec.reward.values, tokenizer, ends, spec.stop
    )
    held_out = spec.task.select("test", spec.evaluation.pool, spec.seed)
    known = {problem.form for problem in held_out}
    pools = {stage.name: spec.task.select("train", stage.pool, spec.seed, known) for stage in spec.stages}
    refuse_overlap(held_out, [problem for pool in pools.values() for problem in pool])
    return ProblemSet(prompt_format, held_out, pools), config

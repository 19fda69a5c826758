"""Supervised steps: the task's solver writes the responses, and everything else of a run stays as it is."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrl.learning.state import TrainState
from jaxrl.reporting.terminal import Terminal
from jaxrl.sampling import Completions
from jaxrl.tasks.problem import Problem
from jaxrl.tasks.prompting import PromptFormat
from jaxrl.training.components import Components
from jaxrl.training.progress import StepPlan
from jaxrl.training.run_spec import RunSpec
from jaxrl.training.step import Collected, Steps

_SAMPLED = ("tokens/slot_occupancy", "speed/rollout_tokens_per_second")  # of a sampler that has nothing to do here


class SupervisedSteps(Steps):
    """Steps that learn what the solver writes to each problem. They are judged and stored as completions are, so the
    metrics of a step say what was taught; what the model writes itself is seen in the evaluations.

    Raises ValueError where a lesson has more tokens than its stage lets a response have.
    """

    def __init__(
        self,
        spec: RunSpec,
        components: Components,
        prompt_format: PromptFormat,
        pools: Mapping[str, Sequence[Problem]],
        terminal: Terminal,
    ):
        super().__init__(spec, components, prompt_format, pools, terminal)
        self.lessons = {
            name: [prompt_format.demonstration(problem) for problem in pool] for name, pool in pools.items()
        }
        for stage in spec.stages:
            longest = max(map(len, self.lessons[stage.name]))
            if longest > stage.max_new_tokens:
                raise ValueError(
                    f"{stage.name}: the solver writes up to {longest} tokens to its problems, more than "
                    f"sampling.max_new_tokens={stage.max_new_tokens}; raise it, or take easier problems."
                )

    def draw(self, state: TrainState, reference: Any, plan: StepPlan) -> Collected:
        """As `Steps.draw`, with no sampler to be compared with."""
        drawn = super().draw(state, reference, plan)
        return drawn._replace(batch=drawn.batch._replace(sample_logp=None))

    def learn(self, state: TrainState, plan: StepPlan, drawn: Collected) -> tuple[TrainState, dict[str, Any]]:
        """As `Steps.learn`."""
        state, record = super().learn(state, plan, drawn)
        return state, {name: value for name, value in record.items() if name not in _SAMPLED}

    def complete(
        self, state: TrainState, plan: StepPlan, indices: np.ndarray, samples: np.ndarray
    ) -> tuple[list[list[int]], Completions]:
        """Prompts of these problems, and the lesson of each, `state` unseen."""
        del state, samples
        stage = plan.stage
        lessons = [self.lessons[stage.name][index] for index in indices]
        lengths = np.array(list(map(len, lessons)), np.int32)
        tokens = np.zeros((len(lessons), max(lengths)), np.int32)
        for row, lesson in enumerate(lessons):
            tokens[row, : len(lesson)] = lesson
        nothing = np.zeros(tokens.shape, np.float32)
        prompts = [self.prompt_format.encode(self.pools[stage.name][index]) for index in indices]
        return prompts, Completions(tokens, lengths, np.ones(len(lessons), bool), nothing, nothing, 0.0)

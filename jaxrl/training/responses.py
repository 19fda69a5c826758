"""Where the responses of a rollout come from: the sampler, or the task's solver in a supervised run."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np

from jaxrl.learning.state import TrainState
from jaxrl.sampling import Completions, Coordinates
from jaxrl.training.components import Components
from jaxrl.training.problem_pools import ProblemSet
from jaxrl.training.progress import StepPlan
from jaxrl.training.run_spec import RunSpec


class ResponseSource(Protocol):
    """Writes responses to problems."""

    sampled: bool
    """Whether a sampler writes them, so that they have log-probabilities and a decoding speed."""

    def complete(
        self, state: TrainState, plan: StepPlan, indices: np.ndarray, samples: np.ndarray
    ) -> tuple[list[list[int]], Completions]:
        """Prompts and completions for the problems at `indices` [P] of the stage's pool, samples `samples` [G] of each.

        Rows of the completions are prompt-major. The result depends on nothing but the arguments, so any completion of
        a step can be sampled again on its own.
        """


class SampledResponses:
    """Responses that the current policy samples. Sample indices from `stage.samples` on are decoded greedily."""

    sampled = True

    def __init__(self, components: Components, problem_set: ProblemSet, show: Callable[..., None]):
        self.components, self.problem_set = components, problem_set
        self.show = partial(show, "rollout")

    def complete(
        self, state: TrainState, plan: StepPlan, indices: np.ndarray, samples: np.ndarray
    ) -> tuple[list[list[int]], Completions]:
        """See `ResponseSource`. Raises FloatingPointError if logits are not finite."""
        stage = plan.stage
        prompts = self.problem_set.prompts(stage.name, indices)
        coordinates = Coordinates(plan.seed, plan.step, indices.astype(np.int32), samples.astype(np.int32))
        temperature = np.tile(np.where(samples < stage.samples, plan.temperature, 0.0), len(indices))
        sampling = self.problem_set.prompt_format.sampling_spec(
            stage.max_new_tokens, temperature, top_k=plan.top_k, top_p=plan.top_p, min_p=plan.min_p
        )
        weights = self.components.decode_weights(state)
        sampler = self.components.sampler
        return prompts, sampler.sample(weights, prompts, len(samples), coordinates, sampling, self.show)


class Demonstrations:
    """Responses that the task's solver writes, one for each problem, as completions to learn from.

    Raises ValueError if a demonstration has more tokens than its stage allows.
    """

    sampled = False

    def __init__(self, spec: RunSpec, problem_set: ProblemSet):
        self.problem_set = problem_set
        self.demonstrations = {
            name: [problem_set.prompt_format.demonstration(problem) for problem in pool]
            for name, pool in problem_set.pools.items()
        }
        for stage in spec.stages:
            longest = max(map(len, self.demonstrations[stage.name]))
            if longest > stage.max_new_tokens:
                raise ValueError(
                    f"{stage.name}: expected demonstrations of at most sampling.max_new_tokens={stage.max_new_tokens} "
                    f"tokens, got one of {longest}; raise the limit or choose easier problems."
                )

    def complete(
        self, state: TrainState, plan: StepPlan, indices: np.ndarray, samples: np.ndarray
    ) -> tuple[list[list[int]], Completions]:
        """See `ResponseSource`; `state` and `samples` are not used."""
        del state, samples
        demonstrations = [self.demonstrations[plan.stage.name][index] for index in indices]
        lengths = np.array(list(map(len, demonstrations)), np.int32)
        tokens = np.zeros((len(demonstrations), max(lengths)), np.int32)
        for row, demonstration in enumerate(demonstrations):
            tokens[row, : len(demonstration)] = demonstration
        zeros = np.zeros(tokens.shape, np.float32)
        finished = np.ones(len(demonstrations), bool)
        prompts = self.problem_set.prompts(plan.stage.name, indices)
        return prompts, Completions(tokens, lengths, finished, zeros, zeros, 0.0)

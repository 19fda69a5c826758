"""Evaluation of a run on its held-out problems."""

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np

from jaxrl.evaluation.evaluate import evaluate
from jaxrl.evaluation.results import EvaluationResult
from jaxrl.learning.state import TrainState
from jaxrl.sampling import Completions, Coordinates
from jaxrl.training.components import Components
from jaxrl.training.problem_pools import ProblemSet
from jaxrl.training.run_spec import RunSpec

# Evaluations have their own seed, so that their samples never repeat those of a training step.
_EVALUATION_SEED = 0x5EED


def evaluate_held_out(
    spec: RunSpec,
    components: Components,
    problem_set: ProblemSet,
    state: TrainState,
    step: int,
    show: Callable[..., None],
) -> EvaluationResult:
    """Greedy and sampled responses of the current policy to all held-out problems, judged.

    show: called with the phase and the sampler's progress.
    """
    evaluation, prompt_format = spec.evaluation, problem_set.prompt_format
    weights = components.decode_weights(state)

    def generate(prompts: list[list[int]], group_size: int, step: int, greedy: bool) -> Completions:
        progress = partial(show, f"evaluation, {'greedy' if greedy else 'sampled'}")
        progress()
        coordinates = Coordinates(
            spec.seed ^ _EVALUATION_SEED,
            step,
            np.arange(len(prompts), dtype=np.int32),
            np.arange(group_size, dtype=np.int32),
        )
        temperature = 0.0 if greedy else evaluation.temperature
        sampling = prompt_format.sampling_spec(evaluation.max_new_tokens, temperature)
        return components.sampler.sample(weights, prompts, group_size, coordinates, sampling, progress)

    settings = {
        "temperature": evaluation.temperature,
        "max_new_tokens": evaluation.max_new_tokens,
        "seed": spec.seed,
    }
    return evaluate(
        generate,
        problem_set.held_out,
        encode=prompt_format.encode,
        decode=prompt_format.decode,
        judge=dataclasses.replace(prompt_format, rule=evaluation.rule or spec.reward.rule).judge,
        samples=evaluation.samples,
        step=step,
        model=spec.model.path,
        settings=settings,
        classify=prompt_format.classify,
        check_reasoning=prompt_format.check_reasoning,
    )

"""Evaluate a model, or a server with an OpenAI-compatible API, with the scorer and the prompts of training."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_gen.dataset import read_jsonl
from data_gen.prompts import PromptSpec
from jaxrl.evaluation.answer_log import AnswerLog
from jaxrl.evaluation.endpoint import Endpoint
from jaxrl.evaluation.evaluate import evaluate
from jaxrl.evaluation.perturbation import separate_twins
from jaxrl.evaluation.remote import RemoteEvaluationSpec, evaluate_endpoint
from jaxrl.evaluation.results import EvaluationResult
from jaxrl.inference.load import Source, is_run, load_policy, stored_config
from jaxrl.inference.training_problems import training_problems
from jaxrl.rewards import RULES, RewardValues
from jaxrl.sampling import Coordinates
from jaxrl.tasks.overlap import refuse_overlap
from jaxrl.tasks.problem import Problem
from jaxrl.tasks.prompting import PromptFormat
from jaxrl.tasks.puzzle_problems import PerturbedProblem, perturbed_problems
from jaxrl.tasks.registry import make_task


class EvaluationRequest(NamedTuple):
    """What is evaluated. fields: task, prompt, stop, reward, and what `load_policy` needs, as in a run's config."""

    fields: dict[str, Any]
    pool: tuple[tuple[str, int], ...]
    samples: int
    temperature: float
    max_new_tokens: int
    seed: int
    greedy: bool
    perturbations: tuple[str, ...] = ()  # kinds of `data_gen.perturb`: also evaluates perturbed problems
    avoid: Collection[str] = frozenset()  # forms that perturbed problems must not have

    def problems(self) -> list[Problem]:
        """The held-out problems."""
        return self.prompt_format().task.select("test", self.pool, self.seed)

    def perturbed(self, problems: Sequence[Problem]) -> list[PerturbedProblem]:
        """The held-out problems with each perturbation. Raises ValueError as `perturbed_problems`."""
        task = self.prompt_format().task
        return perturbed_problems(task, problems, self.perturbations, self.seed, self.avoid)

    def prompt_format(self, tokenizer: Any = None, eos_ids: tuple[int, ...] = ()) -> PromptFormat:
        """How problems become prompts. Raises ValueError for a rule that can't judge the task."""
        reward = dict(self.fields["reward"])
        rule = reward.pop("rule")
        task, prompt = make_task(self.fields["task"], rule), PromptSpec(**self.fields["prompt"])
        return PromptFormat(task, prompt, rule, RewardValues(**reward), tokenizer, eos_ids, tuple(self.fields["stop"]))


def is_puzzle_file(path: Path) -> bool:
    """Whether a file has puzzles, by its name or its first line. Raises ValueError for a line that is not JSON."""
    if path.suffix == ".parquet" or not path.is_file():
        return path.suffix == ".parquet"
    return "quiz" in next(iter(read_jsonl(path)), {})


def use_puzzle_file(fields: Mapping[str, Any], data: Path, kinds: Sequence[str], rule: str) -> dict[str, Any]:
    """The fields of a config with the puzzles of a file as the task, and `rule` if theirs can't judge puzzles."""
    known = fields["reward"]["rule"]
    rule = known if known in RULES and RULES[known].needs == "people" else rule
    task = {"name": "puzzle_files", "files": {kind: {"test": str(data)} for kind in kinds}}
    return {**fields, "task": task, "reward": fields["reward"] | {"rule": rule}}


def use_data_file(fields: Mapping[str, Any], data: Path) -> dict[str, Any]:
    """The fields of a config with the questions of a GSM8K-format file as the task, and a rule that can judge them."""
    rule = fields["reward"]["rule"]
    rule = rule if rule in RULES and RULES[rule].needs == "target" else "gsm8k-2"
    task = {"name": "gsm8k", "files": {data.stem: {"test": str(data)}}}
    return {**fields, "task": task, "reward": fields["reward"] | {"rule": rule}}


def evaluate_model(source: Source, request: EvaluationRequest, name: str) -> EvaluationResult:
    """Evaluate a model of `find_model`. Raises OSError and ValueError with one sentence each."""
    prompt_format = request.prompt_format(source.tokenizer, source.eos_ids)
    originals = request.problems()
    perturbed = request.perturbed(originals)
    problems = [*originals, *(twin.problem for twin in perturbed)]
    longest = max(len(prompt_format.encode(problem)) for problem in problems) + request.max_new_tokens
    sampler, weights = load_policy(source, request.fields, longest)

    def generate(prompts: list[list[int]], group_size: int, step: int, greedy: bool) -> Any:
        prompt_ids, samples = np.arange(len(prompts), dtype=np.int32), np.arange(group_size, dtype=np.int32)
        coordinates = Coordinates(request.seed, step, prompt_ids, samples)
        sampling = prompt_format.sampling_spec(request.max_new_tokens, 0.0 if greedy else request.temperature)
        return sampler.sample(weights, prompts, group_size, coordinates, sampling)

    result = evaluate(
        generate,
        problems,
        encode=prompt_format.encode,
        decode=prompt_format.decode,
        judge=prompt_format.judge,
        samples=request.samples,
        greedy=request.greedy,
        name=name,
        model=source.name,
        settings={name: getattr(request, name) for name in ("temperature", "max_new_tokens", "seed")},
        classify=prompt_format.classify,
        check_reasoning=prompt_format.check_reasoning,
    )
    return separate_twins(result, perturbed)


def prepare_endpoint(
    endpoint: Endpoint, request: EvaluationRequest, name: str, answers: Path, concurrency: int
) -> Callable[[], EvaluationResult]:
    """The evaluation of a server as a function. Everything is checked here, and no request is sent before the call.

    answers: the file that stores the answers. Raises ValueError for prompts that chat messages can't express, and for a
    file with answers to other requests.
    """
    prompt_format = request.prompt_format()
    if prompt_format.stop:
        raise ValueError(
            f"responses end at the stop strings {', '.join(map(repr, prompt_format.stop))} (config.stop), which a "
            "server removes from the response before the rule sees it; use a --like without stop strings."
        )
    originals = request.problems()
    perturbed = request.perturbed(originals)
    problems = [*originals, *(twin.problem for twin in perturbed)]
    for problem in problems:
        prompt_format.messages(problem)
    spec = RemoteEvaluationSpec(
        request.samples, request.temperature, request.max_new_tokens, request.seed, request.greedy, concurrency
    )
    log = AnswerLog(answers, spec.settings(endpoint))

    def evaluate_server() -> EvaluationResult:
        with log:
            result = evaluate_endpoint(
                endpoint,
                problems,
                spec,
                log,
                messages=prompt_format.messages,
                judge=prompt_format.judge,
                name=name,
                classify=prompt_format.classify,
                check_reasoning=prompt_format.check_reasoning,
            )
        return separate_twins(result, perturbed)

    return evaluate_server


def refuse_trained(model: str, request: EvaluationRequest) -> tuple[str, frozenset[str]]:
    """Raises ValueError if `model` is a run that was trained on one of the problems.

    Returns a warning if its training data is not found, else "", and the forms of its training problems.
    """
    if not is_run(model):
        return "", frozenset()
    try:
        trained = list(training_problems(stored_config(model)))
    except (OSError, ValueError) as error:
        return f"could not check whether {model} was trained on these problems ({error})", frozenset()
    refuse_overlap(request.problems(), trained)
    return "", frozenset(problem.form for problem in trained)

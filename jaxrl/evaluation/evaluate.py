"""Generates responses to problems, scores them with the rule of training, and collects the results."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from jaxrl.evaluation.results import EvaluationResult, Item, Sample
from jaxrl.rewards import Verdict
from jaxrl.tasks.problem import Problem
from jaxrl.tasks.task import Reasoning


class GeneratedTokens(Protocol):
    """The output of a policy, prompt-major: `tokens[B, C]`, `lengths[B]` (including the end token, if there is one)
    and `finished[B]` (False: truncated at the length limit)."""

    tokens: np.ndarray
    lengths: np.ndarray
    finished: np.ndarray


class TextResponse(NamedTuple):
    """One response as text. `length` in tokens; `finished` is False if it was truncated at the length limit."""

    text: str
    length: int
    finished: bool


GenerateFn = Callable[[list[list[int]], int, int, bool], GeneratedTokens]
RespondFn = Callable[[int, bool], Sequence[TextResponse]]


def evaluate(
    generate_fn: GenerateFn,
    problems: Sequence[Problem],
    *,
    encode: Callable[[Problem], list[int]],
    decode: Callable[[list[int]], str],
    judge: Callable[[Problem, str, bool], Verdict],
    samples: int = 8,
    greedy: bool = True,
    step: int = 0,
    name: str = "evaluation",
    model: str = "",
    settings: Mapping[str, object] | None = None,
    classify: Callable[[str], str] = lambda response: "",
    check_reasoning: Callable[[Problem, str], Reasoning | None] = lambda problem, response: None,
) -> EvaluationResult:
    """Evaluates a policy over tokens; see `evaluate_responses` for the arguments that are not described here.

    `generate_fn(prompts, group_size, step, greedy)` is called once per mode with all prompts, so that the global index
    of a prompt is its index in the list; it may split them into batches. `decode` gets a row up to its length; it drops
    the final end token and keeps other special tokens visible.
    """
    prompts = [encode(problem) for problem in problems]

    def respond(group_size: int, is_greedy: bool) -> list[TextResponse]:
        output = generate_fn(prompts, group_size, step, is_greedy)
        return [
            TextResponse(decode([int(token) for token in output.tokens[row, :length]]), int(length), bool(finished))
            for row, (length, finished) in enumerate(zip(output.lengths, output.finished, strict=True))
        ]

    return evaluate_responses(
        respond,
        problems,
        judge=judge,
        samples=samples,
        greedy=greedy,
        step=step,
        name=name,
        model=model,
        settings=settings,
        classify=classify,
        check_reasoning=check_reasoning,
    )


def evaluate_responses(
    respond_fn: RespondFn,
    problems: Sequence[Problem],
    *,
    judge: Callable[[Problem, str, bool], Verdict],
    samples: int = 8,
    greedy: bool = True,
    step: int = 0,
    name: str = "evaluation",
    model: str = "",
    settings: Mapping[str, object] | None = None,
    classify: Callable[[str], str] = lambda response: "",
    check_reasoning: Callable[[Problem, str], Reasoning | None] = lambda problem, response: None,
) -> EvaluationResult:
    """Evaluates one greedy response (unless `greedy` is False) and `samples` sampled responses per problem.

    `respond_fn(group_size, greedy)` returns the responses to all problems, prompt-major. `judge(problem, response,
    truncated)` is the rule of training. `classify` returns the style of a response ("" if styles are not
    distinguished), `check_reasoning` what the task's verifier finds in its reasoning (None if it can't verify it).
    Raises ValueError if there are no problems, or neither mode is enabled.
    """
    if not problems:
        raise ValueError("expected at least one problem to evaluate, got none")
    if samples < 0 or (samples == 0 and not greedy):
        raise ValueError(f"expected samples >= 1, or samples=0 with greedy; got {samples} and greedy={greedy}")
    rules: set[str] = set()

    def score(problem: Problem, responses: Sequence[TextResponse]) -> tuple[Sample, ...]:
        scored = []
        for index, response in enumerate(responses):
            verdict = judge(problem, response.text, not response.finished)
            rules.add(verdict.rule)
            text = response.text if index == 0 else ""
            style = classify(response.text)
            reasoning = check_reasoning(problem, response.text) or ()
            scored.append(Sample(verdict.verdict, response.length, response.finished, style, text, *reasoning))
        return tuple(scored)

    def evaluate_mode(group_size: int, is_greedy: bool) -> list[tuple[Sample, ...]]:
        if group_size == 0:
            return [()] * len(problems)
        responses = respond_fn(group_size, is_greedy)
        expected = len(problems) * group_size
        if len(responses) != expected:
            raise ValueError(f"expected {expected} responses ({len(problems)} problems), got {len(responses)}")
        return [
            score(problem, responses[index * group_size : (index + 1) * group_size])
            for index, problem in enumerate(problems)
        ]

    greedy_groups, sampled_groups = evaluate_mode(int(greedy), True), evaluate_mode(samples, False)
    items = tuple(
        _item(problem, *groups) for problem, *groups in zip(problems, greedy_groups, sampled_groups, strict=True)
    )
    published = all(problem.published for problem in problems)
    return EvaluationResult(name, model, step, "+".join(sorted(rules)), dict(settings or {}), items, published)


def _item(problem: Problem, greedy: tuple[Sample, ...], sampled: tuple[Sample, ...]) -> Item:
    return Item(
        problem.id, problem.kind, problem.question, problem.solution, problem.constant_answer_right, greedy, sampled
    )

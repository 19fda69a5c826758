"""Ask a model problems, score the answers with the training's own rule, and collect what came out."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from jaxrl.evaluation.results import EvaluationResult, Item, Sample
from jaxrl.rewards import Verdict
from jaxrl.tasks.problem import Problem


class Answers(Protocol):
    """What a policy gives back, prompt-major: `tokens[B, C]`, `lengths[B]` (with the end token, where there is one)
    and `finished[B]` (False: cut off by the length limit)."""

    tokens: np.ndarray
    lengths: np.ndarray
    finished: np.ndarray


class Answer(NamedTuple):
    """One answer as text; `length` in tokens, `finished` False where the length limit cut it off."""

    text: str
    length: int
    finished: bool


GenerateFn = Callable[[list[list[int]], int, int, bool], Answers]
AnswerFn = Callable[[int, bool], Sequence[Answer]]


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
    classify: Callable[[str], str] | None = None,
) -> EvaluationResult:
    """Evaluates a policy of tokens; see `evaluate_answers` for what is counted.

    `generate_fn(prompts, group_size, step, greedy)` is called once a mode with all prompts, so that a
    prompt's global index is its place in the list; it splits into batches as it likes. `decode` gets a row up
    to its length, leaves out the final end token and keeps other special tokens visible.
    """
    prompts = [encode(problem) for problem in problems]

    def answer(group_size: int, is_greedy: bool) -> list[Answer]:
        answers = generate_fn(prompts, group_size, step, is_greedy)
        return [
            Answer(decode([int(token) for token in answers.tokens[row, :length]]), int(length), bool(finished))
            for row, (length, finished) in enumerate(zip(answers.lengths, answers.finished, strict=True))
        ]

    return evaluate_answers(
        answer,
        problems,
        judge=judge,
        samples=samples,
        greedy=greedy,
        step=step,
        name=name,
        model=model,
        settings=settings,
        classify=classify,
    )


def evaluate_answers(
    answer_fn: AnswerFn,
    problems: Sequence[Problem],
    *,
    judge: Callable[[Problem, str, bool], Verdict],
    samples: int = 8,
    greedy: bool = True,
    step: int = 0,
    name: str = "evaluation",
    model: str = "",
    settings: Mapping[str, object] | None = None,
    classify: Callable[[str], str] | None = None,
) -> EvaluationResult:
    """Evaluates greedy (one answer a problem) and sampled (`samples` answers a problem; 0 leaves it out).

    `answer_fn(group_size, greedy)` gives the answers to all problems, prompt-major. `judge(problem, response,
    truncated)` is the rule of training; `classify` names the style of an answer ("" where styles are not distinguished).
    ValueError for no problem or no mode.
    """
    if not problems:
        raise ValueError("expected at least one problem to evaluate on, got none")
    if samples < 0 or (samples == 0 and not greedy):
        raise ValueError(f"expected samples >= 1, or samples=0 with greedy; got {samples} and greedy={greedy}")
    rules: set[str] = set()

    def ask(group_size: int, is_greedy: bool) -> list[tuple[Sample, ...]]:
        if group_size == 0:
            return [()] * len(problems)
        answers = answer_fn(group_size, is_greedy)
        expected = len(problems) * group_size
        if len(answers) != expected:
            raise ValueError(f"expected {expected} answers ({len(problems)} problems), got {len(answers)}")
        groups = []
        for index, problem in enumerate(problems):
            group = []
            for sample, answer in enumerate(answers[index * group_size : (index + 1) * group_size]):
                verdict = judge(problem, answer.text, not answer.finished)
                rules.add(verdict.rule)
                style = classify(answer.text) if classify is not None else ""
                kept = answer.text if sample == 0 else ""
                group.append(Sample(verdict.verdict, answer.length, answer.finished, style, kept))
            groups.append(tuple(group))
        return groups

    greedy_groups, sampled_groups = ask(int(greedy), True), ask(samples, False)
    items = tuple(
        _item(problem, *groups) for problem, *groups in zip(problems, greedy_groups, sampled_groups, strict=True)
    )
    return EvaluationResult(name, model, step, "+".join(sorted(rules)), dict(settings or {}), items)


def _item(problem: Problem, greedy: tuple[Sample, ...], sampled: tuple[Sample, ...]) -> Item:
    return Item(
        problem.id, problem.kind, problem.question, problem.solution, problem.constant_answer_right, greedy, sampled
    )

"""Ask a model problems, score the answers with the training's own rule, and collect what came out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from jaxrl.evaluation.problems import Problem
from jaxrl.evaluation.table import EvaluationResult, Item, Sample
from jaxrl.rewards import Verdict


class Answers(Protocol):
    """What a policy gives back, prompt-major: `tokens[B, C]`, `lengths[B]` (with the end token, where there is one)
    and `finished[B]` (False: cut off by the length limit)."""

    tokens: np.ndarray
    lengths: np.ndarray
    finished: np.ndarray


GenerateFn = Callable[[list[list[int]], int, int, bool], Answers]


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
    way_of: Callable[[str], str] | None = None,
) -> EvaluationResult:
    """Evaluates greedy (one answer a problem) and sampled (`samples` answers a problem; 0 leaves it out).

    `generate_fn(prompts, group_size, step, greedy)` is called once a mode with all prompts, so that a
    prompt's global index is its place in the list; it splits into batches as it likes. `decode` gets a row up
    to its length, leaves out the final end token and keeps other special tokens visible; `judge(problem, response,
    truncated)` is the rule of training; `way_of` names the way of answering, where that can be told.
    ValueError for no problem or no mode.
    """
    if not problems:
        raise ValueError("expected at least one problem to evaluate on, got none")
    if samples < 0 or (samples == 0 and not greedy):
        raise ValueError(
            f"expected samples >= 1, or samples=0 with greedy; got {samples} and greedy={greedy}"
        )
    prompts = [encode(problem) for problem in problems]
    rules: set[str] = set()

    def answer(group_size: int, is_greedy: bool) -> list[tuple[Sample, ...]]:
        if group_size == 0:
            return [()] * len(problems)
        answers = generate_fn(prompts, group_size, step, is_greedy)
        expected = len(problems) * group_size
        if len(answers.lengths) != expected:
            raise ValueError(
                f"expected {expected} answers ({len(problems)} problems), got {len(answers.lengths)}"
            )
        groups = []
        for index, problem in enumerate(problems):
            group = []
            for sample in range(group_size):
                row = index * group_size + sample
                length, finished = int(answers.lengths[row]), bool(answers.finished[row])
                text = decode([int(token) for token in answers.tokens[row, :length]])
                verdict = judge(problem, text, not finished)
                rules.add(verdict.rule)
                way = way_of(text) if way_of is not None else ""
                group.append(Sample(verdict.verdict, length, finished, way, text if sample == 0 else ""))
            groups.append(tuple(group))
        return groups

    greedy_groups, sampled_groups = answer(int(greedy), True), answer(samples, False)
    items = tuple(
        _item(problem, *groups) for problem, *groups in zip(problems, greedy_groups, sampled_groups, strict=True)
    )
    return EvaluationResult(name, model, step, "+".join(sorted(rules)), dict(settings or {}), items)


def _item(problem: Problem, greedy: tuple[Sample, ...], sampled: tuple[Sample, ...]) -> Item:
    return Item(problem.id, problem.kind, problem.question, problem.solution, problem.blind, greedy, sampled)

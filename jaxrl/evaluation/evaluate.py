"""Ask a model puzzles, score the answers with the training's own rule, and collect what came out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from data_gen.puzzle import Puzzle
from jaxrl.evaluation.table import EvaluationResult, Item, Sample
from jaxrl.rewards import Verdict


class Answers(Protocol):
    """What a policy gives back, prompt-major: `tokens[B, C]`, `lengths[B]` (with the first end token) and
    `finished[B]` (False: cut off by the length limit)."""

    tokens: np.ndarray
    lengths: np.ndarray
    finished: np.ndarray


GenerateFn = Callable[[list[list[int]], int, int, bool], Answers]


def evaluate(
    generate_fn: GenerateFn,
    puzzles: Sequence[Puzzle],
    *,
    encode: Callable[[Puzzle], list[int]],
    decode: Callable[[list[int]], str],
    judge: Callable[[Puzzle, str, bool], Verdict],
    samples: int = 8,
    greedy: bool = True,
    step: int = 0,
    name: str = "evaluation",
    model: str = "",
    settings: Mapping[str, object] | None = None,
    way_of: Callable[[str], str] | None = None,
) -> EvaluationResult:
    """Evaluates greedy (one answer a puzzle) and sampled (`samples` answers a puzzle; 0 leaves it out).

    `generate_fn(prompts, group_size, step, greedy)` is called once a mode with all prompts, so that a
    prompt's global index is its place in the list; it splits into batches as it likes. `decode` gets a row up
    to its length without the final end token and keeps special tokens visible; `judge(puzzle, response,
    truncated)` is the rule of training; `way_of` names the way of answering, where that can be told.
    ValueError for no puzzle or no mode.
    """
    if not puzzles:
        raise ValueError("expected at least one puzzle to evaluate on, got none")
    if samples < 0 or (samples == 0 and not greedy):
        raise ValueError(
            f"expected samples >= 1, or samples=0 with greedy; got {samples} and greedy={greedy}"
        )
    prompts = [encode(puzzle) for puzzle in puzzles]
    rules: set[str] = set()

    def answer(group_size: int, is_greedy: bool) -> list[tuple[Sample, ...]]:
        if group_size == 0:
            return [()] * len(puzzles)
        answers = generate_fn(prompts, group_size, step, is_greedy)
        expected = len(puzzles) * group_size
        if len(answers.lengths) != expected:
            raise ValueError(
                f"expected {expected} answers ({len(puzzles)} puzzles), got {len(answers.lengths)}"
            )
        groups = []
        for index, puzzle in enumerate(puzzles):
            group = []
            for sample in range(group_size):
                row = index * group_size + sample
                length, finished = int(answers.lengths[row]), bool(answers.finished[row])
                text = decode([int(token) for token in answers.tokens[row, : length - finished]])
                verdict = judge(puzzle, text, not finished)
                rules.add(verdict.rule)
                way = way_of(text) if way_of is not None else ""
                group.append(Sample(verdict.verdict, length, finished, way, text if sample == 0 else ""))
            groups.append(tuple(group))
        return groups

    greedy_groups, sampled_groups = answer(int(greedy), True), answer(samples, False)
    items = tuple(
        _item(puzzle, *groups) for puzzle, *groups in zip(puzzles, greedy_groups, sampled_groups, strict=True)
    )
    return EvaluationResult(name, model, step, "+".join(sorted(rules)), dict(settings or {}), items)


def _item(puzzle: Puzzle, greedy: tuple[Sample, ...], sampled: tuple[Sample, ...]) -> Item:
    solution = ", ".join(f"{name} is a {role}" for name, role in puzzle.people)
    return Item(
        puzzle=puzzle.id,
        people=len(puzzle.names),
        quiz=puzzle.quiz,
        solution=solution,
        constant=all(puzzle.solution),
        greedy=greedy,
        sampled=sampled,
    )

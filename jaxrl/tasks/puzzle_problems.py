"""What all tasks with knights-and-knaves puzzles share: prompts, judging, and perturbed puzzles."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_gen.canonical import canonical
from data_gen.perturb import KINDS, Writing, perturb
from data_gen.prompts import puzzle_instruction, question_text
from data_gen.puzzle import Puzzle
from data_gen.reasoning import check_reasoning
from data_gen.response_styles import ResponseSpec, answer_text, classify_style, write_response
from jaxrl.tasks.problem import Problem
from jaxrl.tasks.task import Reasoning, Task

_CAREFUL = ResponseSpec((("careful", 1.0),))


class PerturbedProblem(NamedTuple):
    """A problem with one change, and the index of the original."""

    perturbation: str
    original: int
    problem: Problem


class PuzzleProblems(Task):
    """Problems whose content is a `Puzzle`."""

    answers = "people"
    has_solver = True
    verifies_reasoning = True

    def prompt_parts(self, problem: Problem, form: str) -> tuple[str, str]:
        """See `Task`."""
        return question_text(problem.content, form), puzzle_instruction(problem.content)

    def facts(self, problem: Problem) -> dict[str, Any]:
        """See `Task`."""
        puzzle: Puzzle = problem.content
        return {"quiz": puzzle.quiz, "people": puzzle.people, "roles": puzzle.roles}

    def demonstration(self, problem: Problem) -> str:
        """See `Task`; all cases are tried in order until all statements hold."""
        return write_response(problem.content, _CAREFUL, np.random.default_rng(0))  # one style: nothing is random

    def classify(self, response: str, form: str) -> str:
        """See `Task`; only the embedded model, which has terse prompts, distinguishes styles."""
        return classify_style(response) if form == "terse" else ""

    def check_reasoning(self, problem: Problem, response: str, form: str) -> Reasoning | None:
        """See `Task`; only the embedded model, which has terse prompts, writes a text that a program can parse."""
        return Reasoning(*check_reasoning(problem.content, response)) if form == "terse" else None

    def writing(self) -> Writing | None:
        """How perturbed puzzles are written; None: like the original."""
        return None

    def held_out_filter(self) -> Callable[[str], bool]:
        """Whether training can't use puzzles with a canonical form, so that perturbed ones may have it."""
        return lambda form: True


def puzzle_problem(kind: str, puzzle: Puzzle, published: bool) -> Problem:
    """A puzzle as a problem. published: see `Problem`."""
    solution, form = answer_text(puzzle, puzzle.solution), canonical(puzzle.statements)
    right = all(puzzle.solution)
    return Problem(puzzle.id, kind, puzzle.quiz, solution, form, right, puzzle.names, puzzle, published)


def perturbed_problems(
    task: Task, problems: Sequence[Problem], perturbations: Sequence[str], seed: int, avoid: Collection[str] = ()
) -> list[PerturbedProblem]:
    """The problems with each perturbation of `data_gen.perturb`, without those that no such change fits.

    avoid: canonical forms that a perturbed puzzle must not have, as those of training problems. Raises ValueError for
    an unknown perturbation, for a task without puzzles, and if no problem can be changed.
    """
    unknown = [name for name in perturbations if name not in KINDS]
    if unknown or len(set(perturbations)) < len(perturbations):
        raise ValueError(f"expected each perturbation once, out of {', '.join(KINDS)}, got {', '.join(perturbations)}.")
    if not perturbations:
        return []
    if not isinstance(task, PuzzleProblems):
        raise ValueError("expected knights-and-knaves puzzles to perturb, got problems of another task.")

    twins, is_held_out = [], task.held_out_filter()
    for name in perturbations:
        reason, changed = "", len(twins)
        for index, original in enumerate(problems):
            try:
                puzzle = perturb(
                    original.content,
                    name,
                    seed,
                    task.writing(),
                    keep=lambda form: is_held_out(form) and form not in avoid,
                )
            except ValueError as error:
                reason = reason or str(error)
                continue
            problem = puzzle_problem(original.kind, puzzle, original.published)
            twins.append(PerturbedProblem(name, index, problem))
        if len(twins) == changed:
            raise ValueError(f"the perturbation {name!r} fits none of the puzzles: {reason}")
    return twins

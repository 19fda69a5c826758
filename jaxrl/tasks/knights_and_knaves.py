"""Knights-and-knaves puzzles as a task."""

import dataclasses
import itertools
import re
from collections.abc import Collection, Mapping
from typing import Any, Self

import numpy as np

from data_gen.canonical import canonical, split_of
from data_gen.generate import generate
from data_gen.prompts import (
    puzzle_instruction,
    question_text,
)
from data_gen.puzzle import Puzzle
from data_gen.response_styles import HabitSpec, answer_text, classify_style, write_response
from data_gen.spec import PuzzleSpec
from jaxrl.tasks.problem import Problem
from jaxrl.tasks.task import Pool, Task, check_splits, known_fields

_CAREFUL = HabitSpec((("careful", 1.0),))


@dataclasses.dataclass(frozen=True)
class PuzzleTask(Task):
    """Knights and knaves, written by `data_gen` as the run goes; kinds are "p2" to "p12", by number of people."""

    depth: int
    width: int
    wording: str
    operators: tuple[tuple[str, float], ...]
    splits: tuple[tuple[str, float], ...]
    split_seed: int
    answers = "people"
    has_solver = True

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """See `Task`."""
        task = cls(
            **known_fields(cls, fields)
            | {"operators": operator_weights(fields["operators"]), "splits": tuple(fields["splits"].items())}
        )
        check_splits(task.splits)
        return task

    def select(self, split: str, pool: Pool, seed: int, exclude: Collection[str] = ()) -> list[Problem]:
        """See `Task`; no two puzzles are equal up to renaming people and reordering operands."""
        drawn = []
        for kind, count in pool:
            puzzles = generate(self._spec(kind), seed, None, exclude)
            formed = ((puzzle, canonical(puzzle.statements)) for puzzle in puzzles)
            mine = (pair for pair in formed if split_of(pair[1], self.split_seed, self.splits) == split)
            drawn.extend(_puzzle_problem(kind, *pair) for pair in itertools.islice(mine, count))
        return drawn

    def prompt_parts(self, problem: Problem, form: str) -> tuple[str, str]:
        """See `Task`."""
        return question_text(problem.content, form), puzzle_instruction(problem.content)

    def facts(self, problem: Problem) -> dict[str, Any]:
        """See `Task`."""
        puzzle: Puzzle = problem.content
        return {"quiz": puzzle.quiz, "people": puzzle.people, "roles": puzzle.roles}

    def demonstration(self, problem: Problem) -> str:
        """Every case tried in turn until all statements fit, as the solver finds it, and the answer."""
        return write_response(problem.content, _CAREFUL, np.random.default_rng(0))  # one way only: nothing is drawn

    def classify(self, response: str, form: str) -> str:
        """See `Task`; only the short responses of the embedded model have styles."""
        return classify_style(response) if form == "terse" else ""

    def _spec(self, kind: str) -> PuzzleSpec:
        people = re.fullmatch(r"p(\d+)", kind)
        if not people:
            raise ValueError(f"pool: expected fields such as p3 (puzzles of three people), got {kind!r}.")
        number = int(people[1])
        return PuzzleSpec(
            number, depth=self.depth, width=min(self.width, number), operators=self.operators, wording=self.wording
        )


def operator_weights(table: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """{"tells_truth": 1.0} -> (("tells-truth", 1.0),): statements write their names with a hyphen."""
    return tuple((name.replace("_", "-"), weight) for name, weight in table.items())


def _puzzle_problem(kind: str, puzzle: Puzzle, form: str) -> Problem:
    solution = answer_text(puzzle, puzzle.solution)
    return Problem(puzzle.id, kind, puzzle.quiz, solution, form, all(puzzle.solution), puzzle.names, puzzle)

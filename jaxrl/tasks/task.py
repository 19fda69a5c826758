"""Tasks: where problems come from and how responses are judged. A row of TASKS is what `config.task.name` chooses."""

import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np

from jaxrl.tasks.problem import Problem, kind_order

Pool = Sequence[tuple[str, int]]
"""(kind, how many problems of it) pairs, such as ("p3", 600)."""


class Task(Protocol):
    """What a task has to say; see `PuzzleTask` for the one that is shipped with data."""

    answers: str
    """What a rule needs to judge it: "people", "target" or "verifier" (`jaxrl.rewards.Rule.needs`)."""
    has_solver: bool = False
    """Whether it has a solver that writes responses, `demonstration(problem) -> str`, to learn from."""

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """The task of `config.task` without its name. Raises ValueError, before anything is read, for wrong fields."""

    def select(self, split: str, pool: Pool, seed: int, exclude: Collection[str] = ()) -> list[Problem]:
        """Problems of a split ("train" or "test"), no two of one form, none of a form in `exclude`.

        A function of its arguments. Raises ValueError for an unknown kind or where there are not so many.
        """

    def prompt_parts(self, problem: Problem, form: str) -> tuple[str, str]:
        """(question, instruction) for a prompt of the form."""

    def facts(self, problem: Problem) -> dict[str, Any]:
        """What `jaxrl.rewards.score` has to know of the problem."""

    def demonstration(self, problem: Problem) -> str:
        """A correct response to learn from, written by the task's solver (where `has_solver`)."""
        raise NotImplementedError(f"{type(self).__name__} has no solver.")

    def classify(self, response: str, form: str) -> str:
        """The style of a response to a prompt of the form, for reports; "" where styles aren't distinguished."""
        del response, form
        return ""


def choose(pool: int, prompts: int, seed: Sequence[int], step: int) -> np.ndarray:
    """Which problems of a pool step number `step` (from 0) asks: epoch after epoch, each in an order of its own.

    The remainder of an epoch that does not fill a step is left out, so a step never asks a problem twice.
    """
    steps = pool // prompts
    epoch, place = divmod(step, steps)
    order = np.random.Generator(np.random.PCG64(np.random.SeedSequence([*seed, epoch]))).permutation(pool)
    return order[place * prompts : (place + 1) * prompts]


def take_distinct(kind: str, count: int, taken: set[str], problems: Iterable[Problem]) -> list[Problem]:
    """The first `count` problems whose forms are not in `taken`, which grows by theirs."""
    found = []
    for problem in problems:
        if len(found) == count:
            break
        if problem.form not in taken:
            taken.add(problem.form)
            found.append(problem)
    if len(found) < count:
        raise ValueError(
            f"pool: asked for {count} problems of {kind!r}, but there are only {len(found)} different "
            "ones; ask for fewer."
        )
    return found


def known_fields(task: type, fields: Mapping[str, Any]) -> dict[str, Any]:
    wanted = [field.name for field in dataclasses.fields(task)]
    if sorted(wanted) != sorted(fields):
        raise ValueError(f"task: expected the fields name, {', '.join(wanted)}, got name, {', '.join(fields)}.")
    return dict(fields)


def check_splits(splits: Sequence[tuple[str, float]]) -> None:
    if {"train", "test"} - {name for name, share in splits if share > 0}:
        raise ValueError(f"task.splits: expected shares above 0 for train and test, got {dict(splits)}.")


def problem_id(kind: str, *content: str) -> str:
    """An id of what is asked and what is right, so that a manifest's hash of ids tells when either was changed."""
    return f"{kind}-{hashlib.blake2b(chr(0).join(content).encode(), digest_size=6).hexdigest()}"


def plain_form(question: str) -> str:
    return " ".join(question.casefold().split())


def pool_table(name: str, table: dict[str, int]) -> tuple[tuple[str, int], ...]:
    """{"p3": 600, "p2": 0} -> (("p3", 600),): the kinds in their order, those of 0 left out."""
    if not any(table.values()) or any(count < 0 or count != int(count) for count in table.values()):
        raise ValueError(f"{name}.pool: expected whole numbers of 0 or more, one of them above 0, got {table}.")
    return tuple((kind, count) for kind, count in sorted(table.items(), key=lambda pair: kind_order(pair[0])) if count)

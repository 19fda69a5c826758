"""The interface of a task, and functions for its implementations. The tasks are in `jaxrl.tasks.registry.TASKS`."""

import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from jaxrl.tasks.problem import Problem

Pool = Sequence[tuple[str, int]]
"""(kind, number of problems) pairs, such as ("p3", 600)."""


class Reasoning(NamedTuple):
    """What a task's verifier finds in the reasoning of a response. It is reported, and never rewarded."""

    sound: bool
    """Every step of the reasoning is right, and together they lead to the answer."""
    error: str
    """The kind of the first wrong step: a short fixed phrase, which reports count. "" if the reasoning is sound."""
    span: tuple[int, int]
    """The characters of the response that hold the first wrong step; (0, 0) if the reasoning is sound."""


class Task(Protocol):
    """A source of problems. Subclasses are frozen dataclasses; see `PuzzleTask` for an example."""

    answers: str
    """What a rule needs to judge a response: "people", "target" or "verifier" (`jaxrl.rewards.Rule.needs`)."""
    has_solver: bool = False
    """Whether `demonstration` is implemented."""
    verifies_reasoning: bool = False
    """Whether `check_reasoning` is implemented."""

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """The task of `config.task`, given without its name. Reads no data. Raises ValueError for wrong fields."""

    def judged_by(self, *rules: str) -> Self:
        """This task for a run that judges by these rules, the first of them in training.

        A task of other people's data returns a copy that refuses problems which one of the rules can't judge.
        """
        del rules
        return self

    def select(self, split: str, pool: Pool, seed: int, exclude: Collection[str] = ()) -> list[Problem]:
        """Problems of a split ("train" or "test"), with distinct forms, none of them in `exclude`.

        A pure function of its arguments. Raises ValueError for an unknown kind or for too few problems.
        """

    def prompt_parts(self, problem: Problem, form: str) -> tuple[str, str]:
        """(question, instruction) for a prompt form (see `data_gen.prompts`)."""

    def facts(self, problem: Problem) -> dict[str, Any]:
        """Keyword arguments of `jaxrl.rewards.score` for this problem."""

    def demonstration(self, problem: Problem) -> str:
        """A correct response written by the task's solver, for supervised learning."""
        raise NotImplementedError(f"{type(self).__name__} has no solver.")

    def classify(self, response: str, form: str) -> str:
        """The style of a response to a prompt of this form, for reports; "" if the task distinguishes no styles."""
        del response, form
        return ""

    def check_reasoning(self, problem: Problem, response: str, form: str) -> Reasoning | None:
        """Verify the reasoning of a response to a prompt of this form; None if this task can't.

        A pure function of its arguments. Verified by program, not by a model: an unreadable step is a wrong step.
        """
        del problem, response, form
        return None


def known_fields(task: type, fields: Mapping[str, Any], derived: Collection[str] = ()) -> dict[str, Any]:
    """The fields as a dict. Raises ValueError for unknown and missing fields of the task's dataclass.

    Fields with a default may be missing: configs of runs from before these fields existed still load.
    derived: fields of the dataclass that a config does not set.
    """
    expected = {field.name: field for field in dataclasses.fields(task) if field.name not in derived}
    required = {name for name, field in expected.items() if field.default is dataclasses.MISSING}
    if not required <= set(fields) <= set(expected):
        raise ValueError(f"task: expected the fields name, {', '.join(expected)}, got name, {', '.join(fields)}.")
    return dict(fields)


def file_table(files: Mapping[str, Mapping[str, str]]) -> tuple[tuple[str, str, Path], ...]:
    """{"gsm8k": {"train": path}} -> (("gsm8k", "train", path),), of a config's `task.files`."""
    return tuple((kind, split, Path(path)) for kind, paths in files.items() for split, path in paths.items())


def file_of(files: Iterable[tuple[str, str, Path]], kind: str, split: str) -> Path:
    """The file of a kind and split. Raises ValueError if there is none."""
    for name, part, path in files:
        if (name, part) == (kind, split):
            return path
    raise ValueError(f"pool: expected a kind with a {split} file in task.files, got {kind!r}.")


def check_splits(splits: Sequence[tuple[str, float]]) -> None:
    """Raises ValueError unless "train" and "test" have shares above 0."""
    if {"train", "test"} - {name for name, share in splits if share > 0}:
        raise ValueError(f"task.splits: expected shares above 0 for train and test, got {dict(splits)}.")


def take_distinct(kind: str, count: int, taken: set[str], problems: Iterable[Problem]) -> list[Problem]:
    """The first `count` problems with forms that are not in `taken`. Adds their forms to `taken`."""
    distinct = []
    for problem in problems:
        if len(distinct) == count:
            break
        if problem.form not in taken:
            taken.add(problem.form)
            distinct.append(problem)
    if len(distinct) < count:
        raise ValueError(
            f"pool: expected {count} different problems of {kind!r}, found only {len(distinct)}; request fewer."
        )
    return distinct


def problem_id(kind: str, *content: str) -> str:
    """An id from a hash of `content`, usually question and answer: the manifest's hash of ids changes with them."""
    return f"{kind}-{hashlib.blake2b(chr(0).join(content).encode(), digest_size=6).hexdigest()}"


def plain_form(question: str) -> str:
    """The form of a question given as text: case and white space are ignored."""
    return " ".join(question.casefold().split())

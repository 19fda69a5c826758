"""Datasets of the reasoning-gym package as a task."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Self

from data_gen.canonical import split_of
from data_gen.prompts import (
    TEXT,
)
from jaxrl.tasks.problem import Problem
from jaxrl.tasks.task import Pool, Task, check_splits, known_fields, plain_form, problem_id, take_distinct


@dataclasses.dataclass(frozen=True)
class GymTask(Task):
    """Any dataset of the package reasoning-gym (Stojanovski et al. 2025, arXiv 2505.24760), checked by its own program.

    Kinds are the package's dataset names; splits divide all questions by their text. Needs `pip install jaxrl[gym]`.
    """

    splits: tuple[tuple[str, float], ...]
    split_seed: int
    answers = "verifier"

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """See `Task`."""
        task = cls(**known_fields(cls, fields) | {"splits": tuple(fields["splits"].items())})
        check_splits(task.splits)
        return task

    def select(self, split: str, pool: Pool, seed: int, exclude: Collection[str] = ()) -> list[Problem]:
        """See `Task`."""
        try:
            import reasoning_gym
        except ImportError as error:
            raise ValueError(
                f"task.name is 'gym', which needs the package reasoning-gym: pip install 'jaxrl[gym]' ({error})."
            ) from error
        drawn, taken = [], set(exclude)
        for kind, count in pool:
            if kind not in reasoning_gym.factory.DATASETS:
                raise ValueError(
                    f"pool: expected a dataset of reasoning-gym, got {kind!r}; there are "
                    f"{', '.join(sorted(reasoning_gym.factory.DATASETS))}."
                )
            share = dict(self.splits)[split] / sum(share for _, share in self.splits)
            size = int(4 * count / share) + 100  # enough for a split, also where a part of the questions repeats
            dataset = reasoning_gym.create_dataset(kind, seed=seed, size=size)
            drawn.extend(take_distinct(kind, count, taken, self._of_split(kind, dataset, split)))
        return drawn

    def _of_split(self, kind: str, dataset: Any, split: str) -> Iterable[Problem]:
        for entry in dataset:
            question, form = entry["question"], plain_form(entry["question"])
            if split_of(form, self.split_seed, self.splits) == split:
                answer = str(entry["answer"])
                # Its id says nothing of the stored answer, which some datasets give as Python's hashes fall; the
                # package's version, which the manifest has, decides what is right.
                yield Problem(problem_id(kind, question), kind, question, answer, form, False, (), (dataset, entry))

    def prompt_parts(self, problem: Problem, form: str) -> tuple[str, str]:
        """See `Task`."""
        del form
        return problem.question, TEXT

    def facts(self, problem: Problem) -> dict[str, Any]:
        """See `Task`; an answer counts as right only with the full score of the dataset's own program."""
        dataset, entry = problem.content
        return {"quiz": problem.question, "verifier": lambda answer: dataset.score_answer(answer, entry) >= 1}

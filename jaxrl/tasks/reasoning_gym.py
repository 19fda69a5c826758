"""Datasets of the package reasoning-gym."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Self

from data_gen.canonical import split_of
from data_gen.prompts import TEXT
from jaxrl.tasks.problem import Problem
from jaxrl.tasks.task import Pool, Task, check_splits, known_fields, plain_form, problem_id, take_distinct


@dataclasses.dataclass(frozen=True)
class GymTask(Task):
    """Any dataset of reasoning-gym (Stojanovski et al. 2025, arXiv 2505.24760), judged by the dataset's verifier.

    Kinds are names of datasets; questions are assigned to splits by a hash of their text. Needs the extra `gym`.
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
                f"task.name=gym: expected the package reasoning-gym; run pip install 'jaxrl[gym]' ({error})."
            ) from error
        selected, taken = [], set(exclude)
        for kind, count in pool:
            if kind not in reasoning_gym.factory.DATASETS:
                raise ValueError(
                    f"pool: expected a dataset of reasoning-gym out of "
                    f"{', '.join(sorted(reasoning_gym.factory.DATASETS))}, got {kind!r}."
                )
            share = dict(self.splits)[split] / sum(share for _, share in self.splits)
            size = int(4 * count / share) + 100  # enough for the split even if some questions repeat
            dataset = reasoning_gym.create_dataset(kind, seed=seed, size=size)
            selected.extend(take_distinct(kind, count, taken, self._of_split(kind, dataset, split)))
        return selected

    def _of_split(self, kind: str, dataset: Any, split: str) -> Iterable[Problem]:
        for entry in dataset:
            question, form = entry["question"], plain_form(entry["question"])
            if split_of(form, self.split_seed, self.splits) == split:
                answer = str(entry["answer"])
                # The stored answer is not part of the id: with some datasets it varies with Python's hash seed. What is
                # correct depends on the package's version, which is in the manifest.
                yield Problem(problem_id(kind, question), kind, question, answer, form, False, (), (dataset, entry))

    def prompt_parts(self, problem: Problem, form: str) -> tuple[str, str]:
        """See `Task`."""
        del form
        return problem.question, TEXT

    def facts(self, problem: Problem) -> dict[str, Any]:
        """See `Task`; an answer is correct only with the full score of the dataset's verifier."""
        dataset, entry = problem.content
        return {"quiz": problem.question, "verifier": lambda answer: dataset.score_answer(answer, entry) >= 1}

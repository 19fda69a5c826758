"""Questions with numeric answers, from files in GSM8K's format."""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from data_gen.dataset import read_jsonl
from data_gen.prompts import NUMBER
from jaxrl.tasks.problem import Problem
from jaxrl.tasks.task import Pool, Task, known_fields, plain_form, problem_id, take_distinct


@dataclasses.dataclass(frozen=True)
class FileTask(Task):
    """Questions from JSON lines in GSM8K's format: `question`, and `answer` ending in `#### number`.

    files: (kind, split, path).
    """

    files: tuple[tuple[str, str, Path], ...]
    answers = "target"

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """See `Task`. `files` is kind -> {"train": path, "test": path}."""
        files = known_fields(cls, fields)["files"]
        return cls(tuple((kind, split, Path(path)) for kind, paths in files.items() for split, path in paths.items()))

    def select(self, split: str, pool: Pool, seed: int, exclude: Collection[str] = ()) -> list[Problem]:
        """See `Task`; the first problems of each file in order, for any seed."""
        del seed
        selected, taken = [], set(exclude)
        for kind, count in pool:
            paths = [path for name, part, path in self.files if (name, part) == (kind, split)]
            if not paths:
                raise ValueError(f"pool: expected a kind with a {split} file in task.files, got {kind!r}.")
            selected.extend(take_distinct(kind, count, taken, self._read(kind, paths[0])))
        return selected

    def _read(self, kind: str, path: Path) -> Iterable[Problem]:
        if not path.is_file():
            raise FileNotFoundError(f"task.files: expected a file of JSON lines at {path}, found none.")
        for number, record in enumerate(read_jsonl(path), start=1):
            if not all(isinstance(record.get(field), str) for field in ("question", "answer")):
                raise ValueError(
                    f"{path}, question {number}: expected strings `question` and `answer`, got fields "
                    f"{', '.join(record) or 'none'}."
                )
            question, answer = record["question"], record["answer"].rpartition("####")[2].strip()
            if not re.fullmatch(r"-?[\d,]+(\.\d+)?", answer):
                raise ValueError(
                    f"{path}, question {number}: expected an answer that ends in a number, got {answer!r}."
                )
            identifier, form = problem_id(kind, question, answer), plain_form(question)
            yield Problem(identifier, kind, question, answer, form, False, (), answer)

    def prompt_parts(self, problem: Problem, form: str) -> tuple[str, str]:
        """See `Task`."""
        del form
        return problem.question, NUMBER

    def facts(self, problem: Problem) -> dict[str, Any]:
        """See `Task`."""
        return {"quiz": problem.question, "target": problem.content}

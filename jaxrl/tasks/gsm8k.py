"""Questions with answers, from files in GSM8K's format: numbers, mathematical expressions, or texts."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from data_gen.dataset import read_lines
from data_gen.prompts import NUMBER, TEXT
from jaxrl.rewards import RULES, final_answer
from jaxrl.tasks.problem import Problem
from jaxrl.tasks.task import Pool, Task, file_of, file_table, known_fields, plain_form, problem_id, take_distinct


@dataclasses.dataclass(frozen=True)
class FileTask(Task):
    """Questions from JSON lines in GSM8K's format: `question`, and `answer`, where `####` precedes the final answer.

    An answer without `####` is the final answer. What it may be is up to the rules: a number (gsm8k-2), an expression
    in LaTeX (math-1), any text (exact-2). Files are refused, by line, where a rule can't judge by an answer.

    files: (kind, split, path). rules: see `Task.judged_by`.
    """

    files: tuple[tuple[str, str, Path], ...]
    rules: tuple[str, ...] = ()
    answers = "target"

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """See `Task`. `files` is kind -> {"train": path, "test": path}."""
        files = known_fields(cls, fields, derived=["rules"])["files"]
        return cls(file_table(files))

    def judged_by(self, *rules: str) -> Self:
        """See `Task`."""
        return dataclasses.replace(self, rules=rules)

    def select(self, split: str, pool: Pool, seed: int, exclude: Collection[str] = ()) -> list[Problem]:
        """See `Task`; the first problems of each file in order, for any seed."""
        del seed
        selected, taken = [], set(exclude)
        for kind, count in pool:
            path = file_of(self.files, kind, split)
            selected.extend(take_distinct(kind, count, taken, self._read(kind, path)))
        return selected

    def _read(self, kind: str, path: Path) -> Iterable[Problem]:
        if not path.is_file():
            raise FileNotFoundError(f"task.files: expected a file of JSON lines at {path}, found none.")
        for number, record in read_lines(path):
            if not all(isinstance(record.get(field), str) for field in ("question", "answer")):
                raise ValueError(
                    f"{path}, line {number}: expected strings `question` and `answer`, got fields "
                    f"{', '.join(record) or 'none'}."
                )
            question, answer = record["question"], final_answer(record["answer"])
            for rule in self.rules:
                reason = RULES[rule].check_target(answer)
                if reason:
                    raise ValueError(
                        f"{path}, line {number}: expected an answer that the rule {rule} can judge by, got "
                        f"{answer[:80]!r} ({reason})."
                    )
            identifier, form = problem_id(kind, question, answer), plain_form(question)
            yield Problem(identifier, kind, question, answer, form, False, (), answer)

    def prompt_parts(self, problem: Problem, form: str) -> tuple[str, str]:
        """See `Task`. The instruction requires a number if the rule of training does."""
        del form
        return problem.question, NUMBER if not self.rules or RULES[self.rules[0]].numeric else TEXT

    def facts(self, problem: Problem) -> dict[str, Any]:
        """See `Task`."""
        return {"quiz": problem.question, "target": problem.content}

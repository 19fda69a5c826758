"""Knights-and-knaves puzzles from files: our own, or those of others in the published format."""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from data_gen.canonical import canonical
from data_gen.dataset import read_forms, read_puzzles
from data_gen.puzzle import Puzzle
from jaxrl.tasks.problem import Problem
from jaxrl.tasks.published import is_published_puzzle
from jaxrl.tasks.puzzle_problems import PuzzleProblems, puzzle_problem
from jaxrl.tasks.task import Pool, file_of, file_table, known_fields, take_distinct


@dataclasses.dataclass(frozen=True)
class PuzzleFileTask(PuzzleProblems):
    """Puzzles from files that `data_gen.dataset.read_puzzles` reads. Every puzzle is solved when its file is read.

    files: (kind, split, path). The kinds "p2" to "p12" are the puzzles of their file with that many people; any other
    kind is all puzzles of its file.
    """

    files: tuple[tuple[str, str, Path], ...]

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """See `Task`. `files` is kind -> {"train": path, "test": path}."""
        files = known_fields(cls, fields)["files"]
        return cls(file_table(files))

    def select(self, split: str, pool: Pool, seed: int, exclude: Collection[str] = ()) -> list[Problem]:
        """See `Task`; the first puzzles of each file in order, for any seed."""
        del seed
        selected, taken = [], set(exclude)
        for kind, count in pool:
            path = file_of(self.files, kind, split)
            problems = (puzzle_problem(kind, p, is_published_puzzle(p)) for p in _of_kind(kind, read_puzzles(path)))
            selected.extend(take_distinct(kind, count, taken, problems))
        return selected

    def held_out_filter(self) -> Callable[[str], bool]:
        """See `PuzzleProblems`; forms of the training files are not allowed."""
        trained = read_forms({path for _, split, path in self.files if split == "train" and path.is_file()})
        return lambda form: form not in trained


def count_kinds(path: Path) -> dict[str, int]:
    """Kind ("p3") -> number of puzzles of a file that differ in their canonical form."""
    forms = {(len(puzzle.names), canonical(puzzle.statements)) for puzzle in read_puzzles(path)}
    people = Counter(number for number, _ in forms)
    return {f"p{number}": people[number] for number in sorted(people)}


def _of_kind(kind: str, puzzles: Iterable[Puzzle]) -> Iterable[Puzzle]:
    people = re.fullmatch(r"p(\d+)", kind)
    return (puzzle for puzzle in puzzles if not people or len(puzzle.names) == int(people[1]))

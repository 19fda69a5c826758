"""Statistics of generated puzzles."""

from collections import Counter
from collections.abc import Iterable, Iterator

from data_gen.puzzle import LEAVES, OPERATORS, Puzzle, Statement


class Statistics:
    """Statistics of the puzzles of a build."""

    def __init__(self) -> None:
        self.count = 0
        self.tops: Counter[str] = Counter()
        self.operators: Counter[str] = Counter()
        self.hardness: Counter[int] = Counter()
        self.answers: Counter[tuple[bool, ...]] = Counter()

    def watch(self, puzzles: Iterable[Puzzle]) -> Iterator[Puzzle]:
        """Yield the same puzzles and count them."""
        for puzzle in puzzles:
            self.count += 1
            self.hardness[puzzle.hardness] += 1
            self.answers[puzzle.solution] += 1
            self.tops.update(statement[0] for statement in puzzle.statements)
            for statement in puzzle.statements:
                self._count(statement)
            yield puzzle

    def _count(self, statement: Statement) -> None:
        self.operators[statement[0]] += 1
        if statement[0] not in LEAVES:
            for part in statement[1:]:
                self._count(part)

    def report(self, tally: Counter) -> str:
        """The statistics as text; `tally` was filled by `generate`."""
        if not self.count:
            return "no puzzle was generated"
        honest = sum(count for answer, count in self.answers.items() if all(answer))
        usual, most = self.answers.most_common(1)[0]
        guess = ", ".join("truth" if is_truthful else "lie" for is_truthful in usual)
        return "\n".join(
            [
                f"at the top of a statement: {_shares(self.tops)}",
                f"anywhere: {_shares(self.operators)}",
                "hardness: " + ", ".join(f"{value}: {count}" for value, count in sorted(self.hardness.items())),
                f"acceptance: {tally['found'] / tally['attempts']:.3f} of all candidates have one solution and the "
                f"requested hardness; {tally['repeats']} repeated or excluded puzzles left out",
                f"constant answers: everybody honest is correct in {honest / self.count:.3f}, the most frequent answer "
                f"({guess}) in {most / self.count:.3f}",
            ]
        )


def _shares(counts: Counter[str]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{name} {counts[name] / total:.3f}" for name in OPERATORS)

"""Puzzles out of a seed.

Puzzle number `index` of (spec, seed) is always the same puzzle: it has its own random stream, keyed by a
hash, so neighbours share nothing and a run can begin anywhere. What `generate` leaves out (twins and excluded
forms) leaves a gap in the numbers; it never moves another puzzle to a new number.
"""

from collections import Counter
from collections.abc import Collection, Iterator

from data_gen.canonical import canonical, split_of
from data_gen.puzzle import Puzzle
from data_gen.puzzle_sampler import Drawer
from data_gen.spec import EQUAL_SHARES, PuzzleSpec, most_puzzles

__all__ = ["EQUAL_SHARES", "PuzzleSpec", "canonical", "generate", "split_of"]

# New puzzles count as used up when this many numbers in a row, plus one for each puzzle found, bring none.
MOST_REPEATS = 5_000


def generate(
    spec: PuzzleSpec,
    seed: int,
    count: int | None,
    exclude: Collection[str] = frozenset(),
    start: int = 0,
    tally: Counter | None = None,
) -> Iterator[Puzzle]:
    """`count` puzzles (None: without end) with rising numbers from `start`, each with exactly one answer.

    Within one call no two are equal in the sense of `spec.unique`, and none has a canonical form in `exclude`
    (looked up at every number, so a set that grows during the call is followed); a number that would break
    this is skipped. tally: filled with "draws", "found" (numbers drawn) and "repeats" (numbers skipped).
    Raises ValueError at the call when more puzzles are asked for than can exist, and later when new ones are
    used up.
    """
    if seed < 0 or start < 0 or (count is not None and count < 0):
        raise ValueError(f"expected seed, count and start of 0 or more, got {seed}, {count} and {start}.")
    most = most_puzzles(spec)
    if count is not None and count > most:
        raise ValueError(
            f"expected a count that exists: with {spec.people} people, depth {spec.depth}, width {spec.width} and "
            f"these operators there are fewer than {most} different puzzles, got {count}; ask for fewer, or allow more "
            "people, depth or width."
        )
    return _stream(spec, seed, count, exclude, start, Counter() if tally is None else tally)


def _stream(
    spec: PuzzleSpec, seed: int, count: int | None, exclude: Collection[str], start: int, tally: Counter
) -> Iterator[Puzzle]:
    draw = Drawer(spec, tally)
    seen: set[str] = set()
    repeats, index = 0, start
    while count is None or len(seen) < count:
        puzzle = draw(seed, index)
        form = canonical(puzzle.statements) if spec.unique == "canonical" or exclude else ""
        mark = form if spec.unique == "canonical" else puzzle.id
        index += 1
        if mark in seen or form in exclude:
            repeats += 1
            tally["repeats"] += 1
            if repeats >= MOST_REPEATS + len(seen):
                raise ValueError(
                    f"expected {'no end of' if count is None else count} different puzzles, but only {len(seen)} "
                    f"turned up before {repeats} draws in a row brought nothing new; ask for at most {len(seen)}, or "
                    'allow more people, depth or width, exclude less, or take unique="text".'
                )
            continue
        repeats = 0
        seen.add(mark)
        yield puzzle

"""Streams of distinct puzzles.

Puzzle number `index` of (spec, seed) is always the same puzzle: it has its own random stream, keyed by a hash, so
generation can start at any index. Skipped puzzles (duplicates and excluded forms) leave gaps in the numbers.
"""

from collections import Counter
from collections.abc import Collection, Iterator

from data_gen.canonical import canonical, split_of
from data_gen.puzzle import Puzzle
from data_gen.puzzle_sampler import PuzzleSampler
from data_gen.spec import EQUAL_SHARES, PuzzleSpec, max_puzzles

__all__ = ["EQUAL_SHARES", "PuzzleSpec", "canonical", "generate", "split_of"]

# Generation ends after this many consecutive duplicates, plus one for each puzzle found.
MAX_REPEATS = 5_000


def generate(
    spec: PuzzleSpec,
    seed: int,
    count: int | None,
    exclude: Collection[str] = frozenset(),
    start: int = 0,
    tally: Counter | None = None,
) -> Iterator[Puzzle]:
    """Generate `count` puzzles (None: endlessly) with increasing numbers from `start`, each with exactly one solution.

    No two puzzles of a call are equal in the sense of `spec.unique`, and none has a canonical form in `exclude` (read
    for every puzzle, so the set may grow meanwhile); other numbers are skipped. tally: counts "attempts" (random
    puzzles), "found" (numbers with a puzzle) and "repeats" (numbers skipped). Raises ValueError at once if `count` is
    more than can exist, and later if no new puzzles are found.
    """
    if seed < 0 or start < 0 or (count is not None and count < 0):
        raise ValueError(f"expected seed, count and start of 0 or more, got {seed}, {count} and {start}.")
    limit = max_puzzles(spec)
    if count is not None and count > limit:
        raise ValueError(
            f"expected a smaller count: with {spec.people} people, depth {spec.depth}, width {spec.width} and "
            f"these operators there are fewer than {limit} different puzzles, got {count}; request fewer, or allow "
            "more people, depth or width."
        )
    return _stream(spec, seed, count, exclude, start, Counter() if tally is None else tally)


def _stream(
    spec: PuzzleSpec, seed: int, count: int | None, exclude: Collection[str], start: int, tally: Counter
) -> Iterator[Puzzle]:
    sampler = PuzzleSampler(spec, tally)
    seen: set[str] = set()
    repeats, index = 0, start
    while count is None or len(seen) < count:
        puzzle = sampler(seed, index)
        form = canonical(puzzle.statements) if spec.unique == "canonical" or exclude else ""
        key = form if spec.unique == "canonical" else puzzle.id
        index += 1
        if key in seen or form in exclude:
            repeats += 1
            tally["repeats"] += 1
            if repeats >= MAX_REPEATS + len(seen):
                raise ValueError(
                    f"expected {'endless' if count is None else count} different puzzles, but found only {len(seen)} "
                    f"before {repeats} duplicates in a row; request at most {len(seen)}, allow more people, depth or "
                    'width, exclude fewer, or set unique="text".'
                )
            continue
        repeats = 0
        seen.add(key)
        yield puzzle

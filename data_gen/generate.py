"""Streams of distinct puzzles.

Puzzle number `index` of (spec, seed) is always the same puzzle: it has its own random stream, keyed by a hash, so
generation can start at any index. Skipped puzzles (duplicates and excluded forms) leave gaps in the numbers.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator

from data_gen.canonical import canonical
from data_gen.puzzle import Puzzle
from data_gen.puzzle_sampler import PuzzleSampler
from data_gen.spec import PuzzleSpec, max_puzzles

# Generation ends after this many consecutive duplicates, plus one for each puzzle found.
MAX_REPEATS = 5_000
# Below this many possible puzzles, those that `keep` selects are counted exactly instead of bounded.
FEW = 20_000


def generate(
    spec: PuzzleSpec,
    seed: int,
    count: int | None,
    exclude: Collection[str] = frozenset(),
    start: int = 0,
    tally: Counter | None = None,
    keep: Callable[[str], bool] | None = None,
) -> Iterator[Puzzle]:
    """Generate `count` puzzles (None: endlessly) with increasing numbers from `start`, each with exactly one solution.

    No two puzzles of a call are equal in the sense of `spec.unique`, and none has a canonical form in `exclude` (read
    for every puzzle, so the set may grow meanwhile); other numbers are skipped. keep: whether a canonical form is
    wanted, for example whether it is in a split; other puzzles are left out. tally: counts "attempts" (random puzzles),
    "found" (numbers with a puzzle) and "repeats" (numbers skipped as equal or excluded). Raises ValueError at once if
    `count` is more than can exist, and later if no new puzzles are found.
    """
    if seed < 0 or start < 0 or (count is not None and count < 0):
        raise ValueError(f"expected seed, count and start of 0 or more, got {seed}, {count} and {start}.")
    limit = max_puzzles(spec)
    if count is not None and count > limit and (keep is None or limit > FEW):
        raise ValueError(
            f"expected a smaller count: with {spec.people} people, depth {spec.depth}, width {spec.width} and "
            f"these operators there are at most {limit} different puzzles, got {count}; request fewer, or allow "
            "more people, depth or width."
        )
    return _stream(spec, seed, count, exclude, start, Counter() if tally is None else tally, keep)


def _stream(
    spec: PuzzleSpec,
    seed: int,
    count: int | None,
    exclude: Collection[str],
    start: int,
    tally: Counter,
    keep: Callable[[str], bool] | None,
) -> Iterator[Puzzle]:
    sampler = PuzzleSampler(spec, tally)
    by_form = spec.unique == "canonical"
    seen: set[str] = set()
    kept, repeats, index = 0, 0, start
    while count is None or kept < count:
        draft = sampler.draft(seed, index)
        form = canonical(draft.statements) if by_form or exclude or keep else ""
        puzzle = None if by_form else sampler.complete(draft)
        key = puzzle.id if puzzle else form
        index += 1
        if key in seen or form in exclude:
            repeats += 1
            tally["repeats"] += 1
            if repeats >= MAX_REPEATS + len(seen):
                raise ValueError(
                    f"expected {'endless' if count is None else count} different puzzles, but found only {kept} "
                    f"before {repeats} duplicates in a row; request at most {kept}, allow more people, depth or "
                    'width, exclude fewer, or set unique="text".'
                )
            continue
        repeats = 0
        seen.add(key)
        if keep is None or keep(form):
            kept += 1
            yield puzzle or sampler.complete(draft)

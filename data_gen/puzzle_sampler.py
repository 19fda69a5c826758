"""Puzzle number `index` of (spec, seed), a pure function of the three."""

import random
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

from data_gen.names import NAMES, PLAIN_NAMES, PLAIN_ROLES, ROLES
from data_gen.puzzle import LEAVES, Puzzle, Statement
from data_gen.render import render
from data_gen.solve import branches, combine, full_table, person_tables
from data_gen.spec import PuzzleSpec

# Draws for one index before the wish counts as impossible, over the number of people: about a second in all.
MOST_DRAWS = 20_000
PATIENCE = 3  # failures to find operands that say something new before they are made one operator less deep

Part = tuple[Statement, int, int]


def stream(*key: object) -> Callable[[], float]:
    """An endless stream of numbers in [0, 1), the same on every machine; streams of different keys share
    nothing."""
    digest = blake2b("|".join(map(str, key)).encode(), digest_size=16).digest()
    return random.Random(int.from_bytes(digest, "big")).random  # the one method whose sequence Python keeps


def puzzle_id(names: Sequence[str], roles: Sequence[str], statements: Sequence[Statement]) -> str:
    """Equal exactly when people, names, role words and statements are."""
    mark = blake2b(repr((tuple(names), tuple(roles), tuple(statements))).encode(), digest_size=10).hexdigest()
    return f"kk{len(names)}-{mark}"


def choose_words(draw: Callable[[], float], words: Sequence[str], size: int) -> tuple[str, ...]:
    """`size` different words, each order equally likely."""
    taken: list[str] = []
    while len(taken) < size:
        word = words[int(draw() * len(words))]
        if word not in taken:
            taken.append(word)
    return tuple(taken)


class Drawer:
    """Draws puzzles of one spec. `tally` counts draws and puzzles found.

    A part in the making is (statement, truth table, persons spoken of as bits).
    """

    def __init__(self, spec: PuzzleSpec, tally: Counter | None = None) -> None:
        self.spec = spec
        self.tally = Counter() if tally is None else tally
        self.honest = person_tables(spec.people)
        self.full = full_table(spec.people)
        self.key = repr((spec.people, spec.depth, spec.width, spec.operators, spec.hardness))
        weights = dict(spec.operators)
        bare = [weights[name] for name in LEAVES] if weights["tells-truth"] + weights["lies"] else [1.0, 1.0]
        self.leaves = {
            "tells-truth": [(("tells-truth", i), self.honest[i], 1 << i) for i in range(spec.people)],
            "lies": [(("lies", i), self.full ^ self.honest[i], 1 << i) for i in range(spec.people)],
        }
        leaves = [(leaf, weight) for name, weight in zip(LEAVES, bare, strict=True) for leaf in self.leaves[name]]
        unnegated = [pair for pair in spec.operators if pair[0] != "not"]
        self.names = (_wheel(spec.operators), _wheel(unnegated))
        self.leaf = _wheel(leaves)
        self.shallow = tuple(_wheel(self._shallow(leaves, negated)) for negated in (False, True))
        self.draw: Callable[[], float] = random.Random(0).random

    def __call__(self, seed: int, index: int) -> Puzzle:
        """Raises ValueError when the spec's wish turns out to be impossible."""
        self.draw = stream(self.key, seed, index)
        statements, answer, hard = self._solvable()
        spec = self.spec
        if spec.wording == "plain":
            names, roles = choose_words(self.draw, PLAIN_NAMES, spec.people), PLAIN_ROLES
            quiz = render(statements, names, roles, "plain")
        else:
            names = choose_words(self.draw, NAMES, spec.people)
            roles = ROLES[int(self.draw() * len(ROLES))]
            quiz = render(statements, names, roles, "varied", stream("style", seed, index))
        told = tuple(bool(answer >> i & 1) for i in range(spec.people))
        mark = puzzle_id(names, roles, statements)
        return Puzzle(names, roles, statements, told, quiz, hard, seed, index, mark)

    def statement(self) -> Statement:
        """One more statement from the present stream `self.draw`."""
        return self._part(self.spec.depth, False)[0]

    def _solvable(self) -> tuple[tuple[Statement, ...], int, int]:
        """(statements, the one answer as bits, hardness)."""
        spec, full, depth = self.spec, self.full, self.spec.depth
        most = MOST_DRAWS // spec.people
        met: set[int] = set()
        for draws in range(1, most + 1):
            parts = []
            left = full
            for own in self.honest:
                part = self._part(depth, False)
                left &= full ^ own ^ part[1]
                if not left:
                    break
                parts.append(part)
            if not left or left & (left - 1):
                continue
            statements, said, concerns = zip(*parts, strict=True)
            hard = branches(said, concerns)
            if spec.hardness is None or spec.hardness[0] <= hard <= spec.hardness[1]:
                self.tally["draws"] += draws
                self.tally["found"] += 1
                return statements, left.bit_length() - 1, hard
            met.add(hard)
        if met:
            raise ValueError(
                f"expected a hardness from {spec.hardness[0]} to {spec.hardness[1]}, but {most} draws met only "
                f"{min(met)} to {max(met)}; widen the range, or change people, depth or width."
            )
        raise ValueError(
            f"expected a puzzle with exactly one answer, but {most} draws gave none for {spec.people} people, depth "
            f"{spec.depth}, width {spec.width} and these operators; allow more depth, more width or more operators."
        )

    def _part(self, depth: int, negated: bool) -> Part:
        """A random part; no operator in it is constant or says what one operand says alone, and no "not" is
        doubled."""
        draw = self.draw
        if depth == 0:
            ends, leaves = self.leaf
            return leaves[bisect(ends, draw())]
        if depth == 1:
            ends, parts = self.shallow[negated]
            part = parts[bisect(ends, draw())]
            return part if len(part) == 3 else self._join(part[0], part[1], 1)
        ends, names = self.names[negated]
        name = names[bisect(ends, draw())]
        if name in self.leaves:
            return self.leaves[name][int(draw() * self.spec.people)]
        if name == "not":
            said, table, persons = self._part(depth - 1, True)
            return ("not", said), self.full ^ table, persons
        size = 2
        if self.spec.width > 2 and (name == "and" or name == "or"):
            size += int(draw() * (self.spec.width - 1))
        return self._join(name, size, depth)

    def _join(self, name: str, size: int, depth: int) -> Part:
        """An operator over `size` random parts of which no two say the same or the opposite."""
        full, failed = self.full, 0
        while True:
            parts, tables = [], []
            while len(parts) < size:
                # Bare leaves in the end: about different people they are always something new.
                part = self._part(max(depth - 1 - failed // PATIENCE, 0), False)
                table = part[1]
                if table in tables or full ^ table in tables:
                    failed += 1
                    continue
                parts.append(part)
                tables.append(table)
            table = combine(name, tables, full)
            if table and table != full and table not in tables:
                break
            failed += 1
        persons = 0
        for part in parts:
            persons |= part[2]
        return (name, *[part[0] for part in parts]), table, persons

    def _shallow(self, leaves: list[tuple[Part, float]], negated: bool) -> list[tuple[tuple, float]]:
        """All parts of depth 0 and 1 with their weights; an operator over more than two is left as (name,
        size)."""
        people, full, weights = self.spec.people, self.full, dict(self.spec.operators)
        found: list[tuple[tuple, float]] = []
        for name in LEAVES:
            found += [(leaf, weights[name] / people) for leaf in self.leaves[name]]
        total = sum(weight for _, weight in leaves)
        if not negated:
            for (said, table, persons), weight in leaves:
                found.append(((("not", said), full ^ table, persons), weights["not"] * weight / total))
        pairs = [(a, b, x * y) for a, x in leaves for b, y in leaves if a[2] != b[2] and x * y > 0]
        whole = sum(weight for *_, weight in pairs)
        for name in ("and", "or", "implies", "iff"):
            sizes = self.spec.width - 1 if name in ("and", "or") else 1
            share = weights[name] / sizes
            if share > 0:
                found += [
                    (
                        ((name, a[0], b[0]), combine(name, (a[1], b[1]), full), a[2] | b[2]),
                        share * weight / whole,
                    )
                    for a, b, weight in pairs
                ]
                found += [((name, size), share) for size in range(3, sizes + 2)]
        return found


def _wheel(weights: Sequence[tuple[Any, float]]) -> tuple[list[float], list]:
    """(the upper end of each choice's part of [0, 1], the choices), without those that weigh nothing."""
    used = [(choice, weight) for choice, weight in weights if weight > 0]
    total = sum(weight for _, weight in used)
    ends, reached = [], 0.0
    for _, weight in used:
        reached += weight / total
        ends.append(reached)
    ends[-1] = 1.0
    return ends, [choice for choice, _ in used]

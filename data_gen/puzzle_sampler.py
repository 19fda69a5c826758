"""Random puzzles: puzzle number `index` of (spec, seed) is a pure function of the three."""

import random
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

from data_gen.names import NAMES, PLAIN_NAMES, PLAIN_ROLES, ROLES
from data_gen.puzzle import LEAVES, Puzzle, Statement
from data_gen.render import render
from data_gen.solve import combine, count_branches, full_table, person_tables
from data_gen.spec import PuzzleSpec

# Attempts per index, divided by the number of people, before ValueError: about a second.
MAX_ATTEMPTS = 20_000
MAX_FAILURES = 3  # to find operands of new meaning, before operands of smaller depth are tried

Part = tuple[Statement, int, int]
"""(statement, truth table, persons it refers to as bits)"""


def random_stream(*key: object) -> Callable[[], float]:
    """A function that returns uniform numbers in [0, 1), the same on every machine; independent for each key."""
    digest = blake2b("|".join(map(str, key)).encode(), digest_size=16).digest()
    return random.Random(int.from_bytes(digest, "big")).random  # the one method whose sequence Python guarantees


def puzzle_id(names: Sequence[str], roles: Sequence[str], statements: Sequence[Statement]) -> str:
    """An identifier of names, role words and statements: equal if and only if they are."""
    digest = blake2b(repr((tuple(names), tuple(roles), tuple(statements))).encode(), digest_size=10).hexdigest()
    return f"kk{len(names)}-{digest}"


def sample_words(uniform: Callable[[], float], words: Sequence[str], size: int) -> tuple[str, ...]:
    """`size` different words in random order."""
    sampled: list[str] = []
    while len(sampled) < size:
        word = words[int(uniform() * len(words))]
        if word not in sampled:
            sampled.append(word)
    return tuple(sampled)


class PuzzleSampler:
    """Generates the puzzles of a spec. tally: counts "attempts" and "found"."""

    def __init__(self, spec: PuzzleSpec, tally: Counter | None = None) -> None:
        self.spec = spec
        self.tally = Counter() if tally is None else tally
        self.honest = person_tables(spec.people)
        self.full = full_table(spec.people)
        self.key = repr((spec.people, spec.depth, spec.width, spec.operators, spec.hardness))
        weights = dict(spec.operators)
        leaf_weights = [weights[name] for name in LEAVES] if weights["tells-truth"] + weights["lies"] else [1.0, 1.0]
        self.leaves = {
            "tells-truth": [(("tells-truth", i), self.honest[i], 1 << i) for i in range(spec.people)],
            "lies": [(("lies", i), self.full ^ self.honest[i], 1 << i) for i in range(spec.people)],
        }
        leaves = [
            (leaf, weight) for name, weight in zip(LEAVES, leaf_weights, strict=True) for leaf in self.leaves[name]
        ]
        unnegated = [pair for pair in spec.operators if pair[0] != "not"]
        self.names = (_cumulative(spec.operators), _cumulative(unnegated))
        self.leaf = _cumulative(leaves)
        self.shallow = tuple(_cumulative(self._shallow(leaves, negated)) for negated in (False, True))
        self.uniform: Callable[[], float] = random.Random(0).random

    def __call__(self, seed: int, index: int) -> Puzzle:
        """Puzzle number `index`. Raises ValueError if none is found that fits the spec."""
        self.uniform = random_stream(self.key, seed, index)
        statements, answer, branches = self._solvable()
        spec = self.spec
        if spec.wording == "plain":
            names, roles = sample_words(self.uniform, PLAIN_NAMES, spec.people), PLAIN_ROLES
            quiz = render(statements, names, roles, "plain")
        else:
            names = sample_words(self.uniform, NAMES, spec.people)
            roles = ROLES[int(self.uniform() * len(ROLES))]
            quiz = render(statements, names, roles, "varied", random_stream("style", seed, index))
        solution = tuple(bool(answer >> i & 1) for i in range(spec.people))
        identifier = puzzle_id(names, roles, statements)
        return Puzzle(names, roles, statements, solution, quiz, branches, seed, index, identifier)

    def statement(self) -> Statement:
        """A random statement, from the current stream `self.uniform`."""
        return self._part(self.spec.depth, False)[0]

    def _solvable(self) -> tuple[tuple[Statement, ...], int, int]:
        """(statements, the solution as bits, hardness)."""
        spec, full, depth = self.spec, self.full, self.spec.depth
        most = MAX_ATTEMPTS // spec.people
        hardnesses: set[int] = set()
        for attempts in range(1, most + 1):
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
            statements, tables, mentioned = zip(*parts, strict=True)
            branches = count_branches(tables, mentioned)
            if spec.hardness is None or spec.hardness[0] <= branches <= spec.hardness[1]:
                self.tally["attempts"] += attempts
                self.tally["found"] += 1
                return statements, left.bit_length() - 1, branches
            hardnesses.add(branches)
        if hardnesses:
            raise ValueError(
                f"expected a hardness from {spec.hardness[0]} to {spec.hardness[1]}, but {most} random puzzles "
                f"have only {min(hardnesses)} to {max(hardnesses)}; widen the range, or change people, depth or width."
            )
        raise ValueError(
            f"expected a puzzle with exactly one solution, but found none in {most} random puzzles of {spec.people} "
            f"people, depth {spec.depth}, width {spec.width} and these operators; allow more of these."
        )

    def _part(self, depth: int, negated: bool) -> Part:
        """A random part. No operator in it is constant or equivalent to one of its operands; no "not" is doubled."""
        uniform = self.uniform
        if depth == 0:
            ends, leaves = self.leaf
            return leaves[bisect(ends, uniform())]
        if depth == 1:
            ends, parts = self.shallow[negated]
            part = parts[bisect(ends, uniform())]
            return part if len(part) == 3 else self._join(part[0], part[1], 1)
        ends, names = self.names[negated]
        name = names[bisect(ends, uniform())]
        if name in self.leaves:
            return self.leaves[name][int(uniform() * self.spec.people)]
        if name == "not":
            statement, table, persons = self._part(depth - 1, True)
            return ("not", statement), self.full ^ table, persons
        size = 2
        if self.spec.width > 2 and (name == "and" or name == "or"):
            size += int(uniform() * (self.spec.width - 1))
        return self._join(name, size, depth)

    def _join(self, name: str, size: int, depth: int) -> Part:
        """An operator over `size` random parts, no two of which are equivalent or opposite."""
        full, failed = self.full, 0
        while True:
            parts, tables = [], []
            while len(parts) < size:
                # The depth falls to 0, where leaves about different people always have a new meaning.
                part = self._part(max(depth - 1 - failed // MAX_FAILURES, 0), False)
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
        """All parts of depth 0 and 1 with their weights; an operator over more than two parts stays (name, size)."""
        people, full, weights = self.spec.people, self.full, dict(self.spec.operators)
        found: list[tuple[tuple, float]] = []
        for name in LEAVES:
            found += [(leaf, weights[name] / people) for leaf in self.leaves[name]]
        total = sum(weight for _, weight in leaves)
        if not negated:
            for (statement, table, persons), weight in leaves:
                found.append(((("not", statement), full ^ table, persons), weights["not"] * weight / total))
        pairs = [(a, b, x * y) for a, x in leaves for b, y in leaves if a[2] != b[2] and x * y > 0]
        pairs_total = sum(weight for *_, weight in pairs)
        for name in ("and", "or", "implies", "iff"):
            sizes = self.spec.width - 1 if name in ("and", "or") else 1
            share = weights[name] / sizes
            if share > 0:
                found += [
                    (
                        ((name, a[0], b[0]), combine(name, (a[1], b[1]), full), a[2] | b[2]),
                        share * weight / pairs_total,
                    )
                    for a, b, weight in pairs
                ]
                found += [((name, size), share) for size in range(3, sizes + 2)]
        return found


def _cumulative(weights: Sequence[tuple[Any, float]]) -> tuple[list[float], list]:
    """(cumulative probabilities, choices), without choices of weight 0."""
    used = [(choice, weight) for choice, weight in weights if weight > 0]
    total = sum(weight for _, weight in used)
    ends, cumulative = [], 0.0
    for _, weight in used:
        cumulative += weight / total
        ends.append(cumulative)
    ends[-1] = 1.0
    return ends, [choice for choice, _ in used]

"""Random puzzles: puzzle number `index` of (spec, seed) is a pure function of the three."""

import random
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import NamedTuple

from data_gen.names import ROLES, TRADITIONAL_ROLES, names_of
from data_gen.part_tables import Part, PartTables, choices, part_tables
from data_gen.puzzle import LEAVES, Puzzle, Statement
from data_gen.render import render
from data_gen.solve import combine, count_branches, full_table, person_tables
from data_gen.spec import PuzzleSpec

# Attempts per index, divided by the number of people, before ValueError: about a second.
MAX_ATTEMPTS = 20_000
MAX_FAILURES = 3  # to find operands of new meaning, before operands of smaller depth are tried


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


class Draft(NamedTuple):
    """Statements with exactly one solution."""

    statements: tuple[Statement, ...]
    truths: tuple[int, ...]  # their truth tables
    mentioned: tuple[int, ...]  # the persons that each refers to, as bits
    answer: int  # bit i is set if person i tells the truth
    uniform: Callable[[], float]  # the stream that selects names
    seed: int
    index: int


class PuzzleSampler:
    """Generates the puzzles of a spec. tally: counts "attempts" and "found".

    The statements depend on people, depth, width, operators and hardness only, except that the wording "plain" has its
    own: in the others, fewer statements mention their speaker (`data_gen.part_tables`).
    """

    def __init__(self, spec: PuzzleSpec, tally: Counter | None = None) -> None:
        self.spec = spec
        self.tally = Counter() if tally is None else tally
        self.honest = person_tables(spec.people)
        self.full = full_table(spec.people)
        self.key = repr((spec.people, spec.depth, spec.width, spec.operators, spec.hardness))
        unnegated = [pair for pair in spec.operators if pair[0] != "not"]
        self.names = (choices(spec.operators), choices(unnegated))
        speakers = [None] * spec.people if spec.wording == "plain" else range(spec.people)
        self.tables = [part_tables(spec.people, spec.width, spec.operators, speaker) for speaker in speakers]
        self.uniform: Callable[[], float] = random.Random(0).random

    def __call__(self, seed: int, index: int) -> Puzzle:
        """Puzzle number `index`. Raises ValueError if none is found that fits the spec."""
        return self.complete(self.draft(seed, index))

    def draft(self, seed: int, index: int) -> Draft:
        """Puzzle number `index` before it has names and a text. Raises ValueError as `__call__`."""
        self.uniform = random_stream(self.key, seed, index)
        return Draft(*self._solvable(), self.uniform, seed, index)

    def complete(self, draft: Draft) -> Puzzle:
        """The puzzle of a draft; each draft can be completed once."""
        statements, truths, mentioned, answer, uniform, seed, index = draft
        spec = self.spec
        names = sample_words(uniform, names_of(spec.wording, spec.names), spec.people)
        roles = ROLES[int(uniform() * len(ROLES))] if spec.wording == "varied" else TRADITIONAL_ROLES
        style = None if spec.wording == "plain" else random_stream("style", seed, index)
        quiz = render(statements, names, roles, spec.wording, style, first_person=spec.first_person)
        solution = tuple(bool(answer >> i & 1) for i in range(spec.people))
        hardness, identifier = count_branches(truths, mentioned), puzzle_id(names, roles, statements)
        return Puzzle(names, roles, statements, solution, quiz, hardness, seed, index, identifier)

    def statement(self, speaker: int) -> Statement:
        """A random statement of a person, from the current stream `self.uniform`."""
        return self._part(self.tables[speaker], self.spec.depth, False)[0]

    def _solvable(self) -> tuple[tuple[Statement, ...], tuple[int, ...], tuple[int, ...], int]:
        """The first four fields of a draft."""
        spec, full, depth, uniform = self.spec, self.full, self.spec.depth, self.uniform
        most = MAX_ATTEMPTS // spec.people
        low, high = spec.hardness or (0, 0)
        speakers = [(full ^ own, table, *table.shallow[0]) for own, table in zip(self.honest, self.tables, strict=True)]
        hardnesses: set[int] = set()
        for attempts in range(1, most + 1):
            parts = []
            left = full
            for lying, tables, ends, shallow in speakers:
                # Most statements are in a table: `_part` only for the others, which have further parts.
                part = shallow[bisect(ends, uniform())] if depth == 1 else self._part(tables, depth, False)
                if len(part) == 2:
                    part = self._join(tables, part[0], part[1], 1)
                left &= lying ^ part[1]
                if not left:
                    break
                parts.append(part)
            if not left or left & (left - 1):
                continue
            statements, truths, mentioned = zip(*parts, strict=True)
            branches = count_branches(truths, mentioned) if spec.hardness else 0
            if low <= branches <= high:
                self.tally["attempts"] += attempts
                self.tally["found"] += 1
                return statements, truths, mentioned, left.bit_length() - 1
            hardnesses.add(branches)
        if hardnesses:
            raise ValueError(
                f"expected a hardness from {low} to {high}, but {most} random puzzles "
                f"have only {min(hardnesses)} to {max(hardnesses)}; widen the range, or change people, depth or width."
            )
        raise ValueError(
            f"expected a puzzle with exactly one solution, but found none in {most} random puzzles of {spec.people} "
            f"people, depth {spec.depth}, width {spec.width} and these operators; allow more of these."
        )

    def _part(self, tables: PartTables, depth: int, negated: bool) -> Part:
        """A random part. No operator in it is constant or equivalent to one of its operands; no "not" is doubled."""
        uniform = self.uniform
        if depth == 0:
            ends, leaves = tables.leaf
            return leaves[bisect(ends, uniform())]
        if depth == 1:
            ends, parts = tables.shallow[negated]
            part = parts[bisect(ends, uniform())]
            return part if len(part) == 3 else self._join(tables, part[0], part[1], 1)
        ends, names = self.names[negated]
        name = names[bisect(ends, uniform())]
        if name in LEAVES:
            ends, leaves = tables.claims[name]
            return leaves[bisect(ends, uniform())]
        if name == "not":
            statement, table, persons = self._part(tables, depth - 1, True)
            return ("not", statement), self.full ^ table, persons
        size = 2
        if self.spec.width > 2 and (name == "and" or name == "or"):
            size += int(uniform() * (self.spec.width - 1))
        return self._join(tables, name, size, depth)

    def _join(self, tables: PartTables, name: str, size: int, depth: int) -> Part:
        """An operator over `size` random parts, no two of which are equivalent or opposite."""
        full, failed = self.full, 0
        while True:
            parts, truths = [], []
            while len(parts) < size:
                # The depth falls to 0, where leaves about different people always have a new meaning.
                part = self._part(tables, max(depth - 1 - failed // MAX_FAILURES, 0), False)
                table = part[1]
                if table in truths or full ^ table in truths:
                    failed += 1
                    continue
                parts.append(part)
                truths.append(table)
            table = combine(name, truths, full)
            if table and table != full and table not in truths:
                break
            failed += 1
        persons = 0
        for part in parts:
            persons |= part[2]
        return (name, *[part[0] for part in parts]), table, persons

"""Perturbed puzzles, as a test of memorization: a memorized answer is wrong, reasoning still works."""

from collections.abc import Callable, Iterator
from typing import Literal, get_args

from data_gen.names import ROLES, names_of
from data_gen.puzzle import LEAVES, Puzzle, Statement, depth_of
from data_gen.puzzle_sampler import PuzzleSampler, puzzle_id, random_stream, sample_words
from data_gen.render import render
from data_gen.solve import hardness, solutions
from data_gen.spec import PuzzleSpec

Kind = Literal["statement", "leaf", "order", "names", "role-words", "flip-roles"]
KINDS: tuple[str, ...] = get_args(Kind)
MAX_TRIES = 2_000


def perturb(puzzle: Puzzle, kind: Kind, seed: int, wording: str = "varied") -> Puzzle:
    """The puzzle with one change, again with exactly one solution; keeps `seed` and `index`, gets a new id.

    "statement": one person makes another statement; "leaf": one claim about one person differs; both change the
    solution. "order": the people speak in another order. "names", "role-words": replaced from the lists of `wording`.
    "flip-roles": the two role words are swapped. Unchanged parts keep the phrasing of `generate`. Raises ValueError if
    no such change exists.
    """
    if kind not in KINDS:
        raise ValueError(f"expected a perturbation out of {', '.join(KINDS)}, got {kind!r}.")
    uniform = random_stream("perturb", kind, seed, puzzle.id)
    names, roles, statements, solution = puzzle.names, puzzle.roles, puzzle.statements, puzzle.solution
    if kind == "statement" or kind == "leaf":
        statements, solution = _other_solution(puzzle, kind, uniform)
    elif kind == "order":
        names, statements, solution = _reordered(puzzle, uniform)
    elif kind == "names":
        pool = names_of(wording, "english")
        names = sample_words(uniform, [name for name in pool if name not in names], len(names))
    elif kind == "role-words":
        others = [pair for pair in ROLES if not set(pair) & set(roles)]
        roles = others[int(uniform() * len(others))]
    else:
        roles = (roles[1], roles[0])
    quiz = render(statements, names, roles, wording, random_stream("style", puzzle.seed, puzzle.index))
    identifier = puzzle_id(names, roles, statements)
    return Puzzle(names, roles, statements, solution, quiz, hardness(statements), puzzle.seed, puzzle.index, identifier)


def _other_solution(puzzle: Puzzle, kind: str, uniform: Callable[[], float]) -> tuple[tuple, tuple[bool, ...]]:
    """The first change, in random order, with exactly one solution, different from the old one."""
    people = len(puzzle.names)
    changes = _other_statements(puzzle, uniform) if kind == "statement" else _other_leaves(puzzle, uniform)
    for speaker, statement in changes:
        statements = (*puzzle.statements[:speaker], statement, *puzzle.statements[speaker + 1 :])
        found = solutions(statements)
        if len(found) == 1:
            solution = tuple(bool(found[0] >> i & 1) for i in range(people))
            if solution != puzzle.solution:
                return statements, solution
    raise ValueError(
        f"expected a puzzle in which another {kind} gives another solution, got {puzzle.id} (number {puzzle.index}); "
        "leave it out."
    )


def _other_statements(puzzle: Puzzle, uniform: Callable[[], float]) -> Iterator[tuple[int, Statement]]:
    people = len(puzzle.names)
    depth = max(1, *(depth_of(statement) for statement in puzzle.statements))
    sampler = PuzzleSampler(PuzzleSpec(people, depth=min(depth, 4)))
    sampler.uniform = uniform
    for _ in range(MAX_TRIES):
        speaker = int(uniform() * people)
        yield speaker, sampler.statement(speaker)


def _other_leaves(puzzle: Puzzle, uniform: Callable[[], float]) -> list[tuple[int, Statement]]:
    people = range(len(puzzle.names))
    changes = [
        (speaker, statement)
        for speaker, old in enumerate(puzzle.statements)
        for statement in _with_other_leaf(old, people)
    ]
    return [change for _, change in sorted(((uniform(), change) for change in changes), key=lambda pair: pair[0])]


def _with_other_leaf(statement: Statement, people: range) -> Iterator[Statement]:
    """All statements that differ in exactly one leaf; no operator has two equal operands."""
    if statement[0] in LEAVES:
        yield from (leaf for name in LEAVES for i in people if (leaf := (name, i)) != statement)
        return
    parts = statement[1:]
    for index, part in enumerate(parts):
        for other in _with_other_leaf(part, people):
            if other not in parts:
                yield (statement[0], *parts[:index], other, *parts[index + 1 :])


def _reordered(puzzle: Puzzle, uniform: Callable[[], float]) -> tuple[tuple, tuple, tuple[bool, ...]]:
    people = len(puzzle.names)
    order = list(range(people))
    while order == list(range(people)):
        order.sort(key=lambda _: uniform())
    position = {person: new for new, person in enumerate(order)}
    return (
        tuple(puzzle.names[person] for person in order),
        tuple(_renamed(puzzle.statements[person], position) for person in order),
        tuple(puzzle.solution[person] for person in order),
    )


def _renamed(statement: Statement, position: dict[int, int]) -> Statement:
    if statement[0] in LEAVES:
        return (statement[0], position[statement[1]])
    return (statement[0], *(_renamed(part, position) for part in statement[1:]))

"""A puzzle changed a little: whoever has memorised the puzzle is wrong, whoever reasons is not."""

from collections.abc import Callable, Iterator
from typing import Literal, get_args

from data_gen.names import NAMES, PLAIN_NAMES, ROLES
from data_gen.puzzle import LEAVES, Puzzle, Statement, depth_of
from data_gen.puzzle_sampler import Drawer, choose_words, puzzle_id, stream
from data_gen.render import render
from data_gen.solve import hardness, solutions
from data_gen.spec import PuzzleSpec

Kind = Literal["statement", "leaf", "order", "names", "role-words", "flip-roles"]
KINDS: tuple[str, ...] = get_args(Kind)
MOST_TRIES = 2_000


def perturb(puzzle: Puzzle, kind: Kind, seed: int, wording: str = "varied") -> Puzzle:
    """The puzzle with one thing changed, still with exactly one answer; keeps `seed` and `index`, gets a new
    id.

    "statement": one person says something else, "leaf": one claim about one person differs; in both the
    answer differs from the old one. "order": the people speak in another order. "names", "role-words":
    others, from the lists of `wording`. "flip-roles": the word for honest people now means liars and the
    other way round. The ways of saying are those that `generate` chose wherever nothing changed. Raises
    ValueError when no such change exists.
    """
    if kind not in KINDS:
        raise ValueError(f"expected a perturbation out of {', '.join(KINDS)}, got {kind!r}.")
    draw = stream("perturb", kind, seed, puzzle.id)
    names, roles, statements, solution = puzzle.names, puzzle.roles, puzzle.statements, puzzle.solution
    if kind == "statement" or kind == "leaf":
        statements, solution = _other_answer(puzzle, kind, draw)
    elif kind == "order":
        names, statements, solution = _reordered(puzzle, draw)
    elif kind == "names":
        pool = PLAIN_NAMES if wording == "plain" else NAMES
        names = choose_words(draw, [name for name in pool if name not in names], len(names))
    elif kind == "role-words":
        others = [pair for pair in ROLES if not set(pair) & set(roles)]
        roles = others[int(draw() * len(others))]
    else:
        roles = (roles[1], roles[0])
    quiz = render(statements, names, roles, wording, stream("style", puzzle.seed, puzzle.index))
    mark = puzzle_id(names, roles, statements)
    return Puzzle(names, roles, statements, solution, quiz, hardness(statements), puzzle.seed, puzzle.index, mark)


def _other_answer(puzzle: Puzzle, kind: str, draw: Callable[[], float]) -> tuple[tuple, tuple[bool, ...]]:
    """The first change, in random order, that has exactly one answer, and not the old one."""
    people = len(puzzle.names)
    changes = _other_statements(puzzle, draw) if kind == "statement" else _other_leaves(puzzle, draw)
    for speaker, said in changes:
        statements = (*puzzle.statements[:speaker], said, *puzzle.statements[speaker + 1 :])
        answers = solutions(statements)
        if len(answers) == 1:
            solution = tuple(bool(answers[0] >> i & 1) for i in range(people))
            if solution != puzzle.solution:
                return statements, solution
    raise ValueError(
        f"expected a puzzle in which another {kind} gives another answer, got {puzzle.id} (number {puzzle.index}), "
        "where none does; leave it out."
    )


def _other_statements(puzzle: Puzzle, draw: Callable[[], float]) -> Iterator[tuple[int, Statement]]:
    people = len(puzzle.names)
    depth = max(1, *(depth_of(said) for said in puzzle.statements))
    drawer = Drawer(PuzzleSpec(people, depth=min(depth, 4)))
    drawer.draw = draw
    for _ in range(MOST_TRIES):
        yield int(draw() * people), drawer.statement()


def _other_leaves(puzzle: Puzzle, draw: Callable[[], float]) -> list[tuple[int, Statement]]:
    people = range(len(puzzle.names))
    changes = [
        (speaker, said) for speaker, old in enumerate(puzzle.statements) for said in _with_other_leaf(old, people)
    ]
    return [change for _, change in sorted(((draw(), change) for change in changes), key=lambda pair: pair[0])]


def _with_other_leaf(statement: Statement, people: range) -> Iterator[Statement]:
    """Every statement that differs in exactly one leaf and in which no operator has the same operand
    twice."""
    if statement[0] in LEAVES:
        yield from (leaf for name in LEAVES for i in people if (leaf := (name, i)) != statement)
        return
    parts = statement[1:]
    for place, part in enumerate(parts):
        for other in _with_other_leaf(part, people):
            if other not in parts:
                yield (statement[0], *parts[:place], other, *parts[place + 1 :])


def _reordered(puzzle: Puzzle, draw: Callable[[], float]) -> tuple[tuple, tuple, tuple[bool, ...]]:
    people = len(puzzle.names)
    order = list(range(people))
    while order == list(range(people)):
        order.sort(key=lambda _: draw())
    place = {person: new for new, person in enumerate(order)}
    return (
        tuple(puzzle.names[person] for person in order),
        tuple(_renamed(puzzle.statements[person], place) for person in order),
        tuple(puzzle.solution[person] for person in order),
    )


def _renamed(statement: Statement, place: dict[int, int]) -> Statement:
    if statement[0] in LEAVES:
        return (statement[0], place[statement[1]])
    return (statement[0], *(_renamed(part, place) for part in statement[1:]))

"""Perturbed puzzles, as a test of memorization: a memorized answer is wrong, reasoning still works.

Source of the idea and of the kinds: Xie et al. 2024, arXiv 2410.23123.
"""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, get_args

from data_gen.canonical import canonical
from data_gen.edit_text import edit_text
from data_gen.names import NAME_SETS, ROLES, names_of
from data_gen.puzzle import LEAVES, Puzzle, Statement, depth_of
from data_gen.puzzle_sampler import PuzzleSampler, puzzle_id, random_stream, sample_words
from data_gen.render import render
from data_gen.solve import hardness, solutions
from data_gen.spec import WORDINGS, PuzzleSpec

Kind = Literal["statement", "leaf", "order", "names", "role-words", "flip-roles"]
KINDS: tuple[str, ...] = get_args(Kind)
MAX_TRIES = 2_000


class Writing(NamedTuple):
    """How a puzzle is written: the fields of `PuzzleSpec` with these names."""

    wording: str
    first_person: bool = False


class _Change(NamedTuple):
    """What a perturbed puzzle has instead. order: the old index of each person, in the new order of speaking."""

    names: tuple[str, ...]
    roles: tuple[str, str]
    statements: tuple[Statement, ...]
    solution: tuple[bool, ...]
    order: tuple[int, ...]


def perturb(
    puzzle: Puzzle,
    kind: Kind,
    seed: int,
    writing: Writing | None = None,
    names: str | None = None,
    keep: Callable[[str], bool] = lambda form: True,
) -> Puzzle:
    """The puzzle with one change, again with exactly one solution; keeps `seed` and `index`, gets a new id.

    "statement": one person makes another statement; "leaf": one claim about one person differs; both change the
    solution. "order": the people speak in another order. "names", "role-words": replaced by words of our own lists.
    "flip-roles": the two role words are swapped.

    writing: None keeps that of the puzzle, so that nothing else changes; the text of a puzzle that was not written by
    this version of `data_gen` is edited (`data_gen.edit_text`). names: the set of new names (None: the one that the
    puzzle uses). keep: whether the canonical form of a puzzle with another statement or leaf is allowed. Raises
    ValueError if no such change exists.
    """
    if kind not in KINDS:
        raise ValueError(f"expected a perturbation out of {', '.join(KINDS)}, got {kind!r}.")
    uniform = random_stream("perturb", kind, seed, puzzle.id)
    found = writing or find_writing(puzzle)
    change = _change(puzzle, kind, uniform, found.wording if found else "classic", names, keep)
    if found:
        style = random_stream("style", puzzle.seed, puzzle.index)
        quiz = render(
            change.statements, change.names, change.roles, found.wording, style, first_person=found.first_person
        )
    else:
        quiz = edit_text(puzzle, change.names, change.roles, change.statements, change.order)
    return puzzle._replace(
        names=change.names,
        roles=change.roles,
        statements=change.statements,
        solution=change.solution,
        quiz=quiz,
        hardness=hardness(change.statements),
        id=puzzle_id(change.names, change.roles, change.statements),
        standalone=puzzle.standalone and not found,
    )


def find_writing(puzzle: Puzzle) -> Writing | None:
    """How `data_gen` wrote the puzzle; None if this version doesn't write such a text."""
    for wording in WORDINGS:
        for first_person in (False, True):
            style = random_stream("style", puzzle.seed, puzzle.index)
            text = render(puzzle.statements, puzzle.names, puzzle.roles, wording, style, first_person=first_person)
            if text == puzzle.quiz:
                return Writing(wording, first_person)
    return None


def _change(
    puzzle: Puzzle,
    kind: str,
    uniform: Callable[[], float],
    wording: str,
    names: str | None,
    keep: Callable[[str], bool],
) -> _Change:
    unchanged = _Change(puzzle.names, puzzle.roles, puzzle.statements, puzzle.solution, tuple(range(len(puzzle.names))))
    if kind == "statement" or kind == "leaf":
        statements, solution = _other_solution(puzzle, kind, uniform, wording, keep)
        return unchanged._replace(statements=statements, solution=solution)
    if kind == "order":
        return _reordered(puzzle, uniform)
    if kind == "names":
        return unchanged._replace(names=_other_names(puzzle, uniform, wording, names))
    if kind == "role-words":
        others = [pair for pair in ROLES if not set(pair) & set(puzzle.roles)]
        return unchanged._replace(roles=others[int(uniform() * len(others))])
    return unchanged._replace(roles=(puzzle.roles[1], puzzle.roles[0]))


def _other_names(puzzle: Puzzle, uniform: Callable[[], float], wording: str, names: str | None) -> tuple[str, ...]:
    if names is None:
        ours = wording != "plain" and set(puzzle.names) <= set(NAME_SETS["world"])
        names = "world" if ours and not set(puzzle.names) <= set(NAME_SETS["english"]) else "english"
    others = [name for name in names_of(wording, names) if name not in puzzle.quiz]
    if len(others) < len(puzzle.names):
        raise ValueError(
            f"expected {len(puzzle.names)} other names for {puzzle.id}, but only {len(others)} are left; leave it out."
        )
    return sample_words(uniform, others, len(puzzle.names))


def _other_solution(
    puzzle: Puzzle, kind: str, uniform: Callable[[], float], wording: str, keep: Callable[[str], bool]
) -> tuple[tuple, tuple[bool, ...]]:
    """The first change, in random order, with exactly one solution, different from the old one."""
    people = len(puzzle.names)
    changes = _other_statements(puzzle, uniform, wording) if kind == "statement" else _other_leaves(puzzle, uniform)
    for speaker, statement in changes:
        statements = (*puzzle.statements[:speaker], statement, *puzzle.statements[speaker + 1 :])
        found = solutions(statements)
        if len(found) == 1:
            solution = tuple(bool(found[0] >> i & 1) for i in range(people))
            if solution != puzzle.solution and keep(canonical(statements)):
                return statements, solution
    raise ValueError(
        f"expected a puzzle in which another {kind} gives another solution, got {puzzle.id} (number {puzzle.index}); "
        "leave it out."
    )


def _other_statements(puzzle: Puzzle, uniform: Callable[[], float], wording: str) -> Iterator[tuple[int, Statement]]:
    people = len(puzzle.names)
    depth = max(1, *(depth_of(statement) for statement in puzzle.statements))
    sampler = PuzzleSampler(PuzzleSpec(people, depth=min(depth, 4), wording=wording))
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


def _reordered(puzzle: Puzzle, uniform: Callable[[], float]) -> _Change:
    people = len(puzzle.names)
    order = list(range(people))
    while order == list(range(people)):
        order.sort(key=lambda _: uniform())
    position = {person: new for new, person in enumerate(order)}
    return _Change(
        tuple(puzzle.names[person] for person in order),
        puzzle.roles,
        tuple(_renamed(puzzle.statements[person], position) for person in order),
        tuple(puzzle.solution[person] for person in order),
        tuple(order),
    )


def _renamed(statement: Statement, position: dict[int, int]) -> Statement:
    if statement[0] in LEAVES:
        return (statement[0], position[statement[1]])
    return (statement[0], *(_renamed(part, position) for part in statement[1:]))

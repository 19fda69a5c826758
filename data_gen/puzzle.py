"""A puzzle as data.

A statement is a nested tuple: ("tells-truth", i), ("lies", i), ("not", s), ("and", s, s, ...), ("or", s, s, ...),
("implies", a, b) or ("iff", a, b), where i is the index of a person. Person i makes statements[i].
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

LEAVES = ("tells-truth", "lies")
OPERATORS = (*LEAVES, "not", "and", "or", "implies", "iff")
RECORD_KEYS = ("id", "quiz", "people", "roles", "statements", "n_people", "hardness", "seed", "index")
MOST_PEOPLE = 12

Statement = tuple


class Puzzle(NamedTuple):
    """A puzzle with exactly one solution. `solution[i]` is True if person i tells the truth.

    `standalone` is True if `quiz` contains the setting and the question, as in the published data set.
    """

    names: tuple[str, ...]
    roles: tuple[str, str]
    statements: tuple[Statement, ...]
    solution: tuple[bool, ...]
    quiz: str
    hardness: int
    seed: int
    index: int
    id: str
    standalone: bool = False

    @property
    def people(self) -> tuple[tuple[str, str], ...]:
        """The solution as (name, role word) of every person, in the order of speaking."""
        truth, lie = self.roles
        return tuple((name, truth if honest else lie) for name, honest in zip(self.names, self.solution, strict=True))

    @property
    def solution_text(self) -> str:
        """The solution in one sentence: Ann is a knight, Bob is a knave, and Cal is a knight."""
        claims = [f"{name} is {with_article(role)}" for name, role in self.people]
        return f"{', '.join(claims[:-1])}, and {claims[-1]}."


def with_article(word: str) -> str:
    """The word with its article: a knave, an egoist."""
    return f"{'an' if word[0].lower() in 'aeiou' else 'a'} {word}"


def check_statement(statement: Statement, people: int) -> None:
    """Raises ValueError unless `statement` is well-formed and refers only to persons 0 .. people - 1."""
    if not isinstance(statement, tuple) or not statement or statement[0] not in OPERATORS:
        raise ValueError(f"expected a statement that starts with one of {', '.join(OPERATORS)}, got {statement!r}.")
    name, parts = statement[0], statement[1:]
    if name in LEAVES:
        if len(parts) != 1 or type(parts[0]) is not int or not 0 <= parts[0] < people:
            raise ValueError(f"expected ({name!r}, person) with a person from 0 to {people - 1}, got {statement!r}.")
        return
    valid = len(parts) == 1 if name == "not" else len(parts) >= 2 if name in ("and", "or") else len(parts) == 2
    if not valid:
        raise ValueError(f"expected 1 part for not, 2 or more for and/or, 2 for implies/iff, got {statement!r}.")
    for part in parts:
        check_statement(part, people)


def depth_of(statement: Statement) -> int:
    """Nesting depth of operators: 0 for a leaf, 1 for an operator over leaves."""
    if statement[0] in LEAVES:
        return 0
    return 1 + max(depth_of(part) for part in statement[1:])


def to_record(puzzle: Puzzle) -> dict:
    """The puzzle as a JSON-compatible dict (a line of a puzzle file): RECORD_KEYS and `solution_text`."""
    record = {
        "id": puzzle.id,
        "quiz": puzzle.quiz,
        "people": [list(pair) for pair in puzzle.people],
        "solution_text": puzzle.solution_text,
        "roles": list(puzzle.roles),
        "statements": puzzle.statements,
        "n_people": len(puzzle.names),
        "hardness": puzzle.hardness,
        "seed": puzzle.seed,
        "index": puzzle.index,
    }
    return record | {"standalone": True} if puzzle.standalone else record


def from_record(record: dict) -> Puzzle:
    """The inverse of `to_record`, also for a record read from JSON. Files of earlier versions have no `solution_text`.

    Raises ValueError for a malformed record, and for a `solution_text` that contradicts `people`.
    """
    missing = [key for key in RECORD_KEYS if key not in record]
    if missing:
        raise ValueError(f"expected a puzzle with the keys {', '.join(RECORD_KEYS)}; missing: {', '.join(missing)}.")
    for keys, kind in ((("id", "quiz"), str), (("n_people", "hardness", "seed", "index"), int)):
        wrong = [key for key in keys if not isinstance(record[key], kind)]
        if wrong:
            raise ValueError(f"expected {wrong[0]} to be of type {kind.__name__}, got {record[wrong[0]]!r:.60}.")
    if len(record["roles"]) != 2 or record["roles"][0] == record["roles"][1]:
        raise ValueError(f"expected two different role words (truth, lie), got {record['roles']!r}.")
    roles = (record["roles"][0], record["roles"][1])
    people = [(name, role) for name, role in record["people"]]
    unknown = sorted({role for _, role in people} - set(roles))
    if unknown:
        raise ValueError(f"expected every person's role to be {roles[0]!r} or {roles[1]!r}, got {unknown[0]!r}.")
    statements = tuple(_tuples(statement) for statement in record["statements"])
    if not len(statements) == len(people) == record["n_people"]:
        raise ValueError(
            f"expected as many people and statements as n_people={record['n_people']}, got {len(people)} people and "
            f"{len(statements)} statements."
        )
    if not 2 <= len(people) <= MOST_PEOPLE:
        raise ValueError(f"expected 2 to {MOST_PEOPLE} people, got {len(people)}.")
    for statement in statements:
        check_statement(statement, len(people))
    puzzle = Puzzle(
        names=tuple(name for name, _ in people),
        roles=roles,
        statements=statements,
        solution=tuple(role == roles[0] for _, role in people),
        quiz=record["quiz"],
        hardness=record["hardness"],
        seed=record["seed"],
        index=record["index"],
        id=record["id"],
        standalone=record.get("standalone", False),
    )
    check_solution_text(puzzle, record.get("solution_text"))
    return puzzle


def check_solution_text(puzzle: Puzzle, text: str | None) -> None:
    """Raises ValueError unless the text gives everybody the role that the solution gives them; None is not checked."""
    if text is None:
        return
    roles = "|".join(re.escape(role) for role in sorted(puzzle.roles, key=len, reverse=True))
    for name, role in puzzle.people:
        stated = re.findall(rf"(?<!\w){re.escape(name)} is (?:an? )?({roles})(?!\w)", str(text))
        if stated != [role]:
            raise ValueError(
                f"expected a solution_text that says once that {name} is {with_article(role)}, as the solution does, "
                f"got {text!r}."
            )


def _tuples(value: Sequence | str | int) -> Statement | str | int:
    return tuple(_tuples(part) for part in value) if isinstance(value, (list, tuple)) else value

"""The format of the published knights-and-knaves data set, and puzzles in it.

Source: the data set K-and-K/knights-and-knaves on Hugging Face (Xie et al. 2024, arXiv 2410.23123). Its columns:

quiz: setting, statements and question as one text. names: the people, in the order of speaking.
knight_knave: the role words: {"knight": "saint", "a_knight": "a saint", "Knight": "Saint", "knave": "sinner", ...}.
solution: a list of booleans, True for those who tell the truth. solution_text: the solution in one sentence.
statements: the repr of a tuple with one statement for each person. A statement is ('telling-truth', i), ('lying', i),
('not', s), ('and', s, ...), ('or', s, ...), ('->', s, s) or ('<=>', s, s), where i is the index of a person.
index: the number of the puzzle. Other columns, such as worked-out reasoning, are ignored.
"""

import ast
from collections.abc import Mapping
from typing import Any

from data_gen.prompts import question_text
from data_gen.puzzle import MOST_PEOPLE, Puzzle, Statement, check_solution_text, check_statement, with_article
from data_gen.puzzle_sampler import puzzle_id
from data_gen.solve import hardness

COLUMNS = ("quiz", "names", "knight_knave", "solution", "solution_text", "statements", "index")
_REQUIRED = ("quiz", "names", "knight_knave", "solution", "statements")

_OPERATORS = {
    "tells-truth": "telling-truth",
    "lies": "lying",
    "not": "not",
    "and": "and",
    "or": "or",
    "implies": "->",
    "iff": "<=>",
}
_OURS = {theirs: ours for ours, theirs in _OPERATORS.items()}
_LONGEST_STATEMENTS = 100_000  # characters


def is_published(record: Mapping[str, Any]) -> bool:
    """Whether a record has the published format rather than our own."""
    return "knight_knave" in record or ("names" in record and "people" not in record)


def to_published(puzzle: Puzzle) -> dict[str, Any]:
    """The puzzle as a row of the published format."""
    truth, lie = puzzle.roles
    words = {}
    for key, word in (("knight", truth), ("knave", lie)):
        words |= {key: word, f"a_{key}": with_article(word), key.title(): word[0].upper() + word[1:]}
    return {
        "quiz": question_text(puzzle, "chat"),
        "names": list(puzzle.names),
        "knight_knave": words,
        "solution": list(puzzle.solution),
        "solution_text": puzzle.solution_text,
        "statements": repr(tuple(_to_theirs(statement) for statement in puzzle.statements)),
        "index": puzzle.index,
    }


def from_published(record: Mapping[str, Any]) -> Puzzle:
    """The puzzle of a row. Its hardness is computed, and its seed is 0.

    Raises ValueError for a malformed row and for statements that our puzzles can't express.
    """
    missing = [column for column in _REQUIRED if record.get(column) is None]
    if missing:
        raise ValueError(
            f"expected the columns {', '.join(_REQUIRED)} of the published format; missing: {', '.join(missing)}."
        )
    names, roles = _names(record["names"]), _roles(record["knight_knave"])
    statements = _statements(record["statements"], len(names))
    solution = record["solution"]
    if len(solution) != len(names) or not all(isinstance(honest, bool) for honest in solution):
        raise ValueError(f"expected a solution of {len(names)} booleans, one for each name, got {solution!r}.")
    quiz, index = record["quiz"], record.get("index", 0)
    if not isinstance(quiz, str) or not isinstance(index, int):
        raise ValueError(f"expected quiz to be a text and index to be an integer, got {quiz!r:.60} and {index!r}.")
    puzzle = Puzzle(
        names=names,
        roles=roles,
        statements=statements,
        solution=tuple(solution),
        quiz=quiz,
        hardness=hardness(statements),
        seed=0,
        index=index,
        id=puzzle_id(names, roles, statements),
        standalone=True,
    )
    check_solution_text(puzzle, record.get("solution_text"))
    return puzzle


def _names(names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"expected names to be a list of texts, got {names!r:.80}.")
    if not 2 <= len(names) <= MOST_PEOPLE:  # before anything of size 2**people is computed
        raise ValueError(f"expected 2 to {MOST_PEOPLE} names, got {len(names)}.")
    return tuple(names)


def _roles(words: Any) -> tuple[str, str]:
    found = tuple(words.get(key) for key in ("knight", "knave")) if isinstance(words, dict) else ()
    if len(found) != 2 or not all(isinstance(word, str) and word for word in found):
        raise ValueError(f'expected knight_knave to have the texts "knight" and "knave", got {words!r:.80}.')
    return found[0], found[1]


def _statements(value: Any, people: int) -> tuple[Statement, ...]:
    if isinstance(value, str):
        value = _parsed(value)
    if not isinstance(value, (list, tuple)) or len(value) != people:
        raise ValueError(f"expected statements to be a tuple of {people}, one for each name, got {value!r:.80}.")
    statements = tuple(_to_ours(statement) for statement in value)
    for statement in statements:
        check_statement(statement, people)
    return statements


def _parsed(text: str) -> Any:
    """The tuple that a text writes out. Only literals are evaluated."""
    try:
        if len(text) <= _LONGEST_STATEMENTS:
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        pass
    raise ValueError(f"expected statements to be the text of a Python tuple, got {text!r:.80}.")


def _to_theirs(statement: Statement) -> tuple:
    return (_OPERATORS[statement[0]], *(_to_theirs(p) if isinstance(p, tuple) else p for p in statement[1:]))


def _to_ours(statement: Any) -> Statement:
    known = isinstance(statement, (list, tuple)) and statement and isinstance(statement[0], str)
    if not known or statement[0] not in _OURS:
        raise ValueError(
            f"expected a statement that starts with one of {', '.join(_OURS)}; our puzzles can't express "
            f"{statement!r:.80}."
        )
    name = _OURS[statement[0]]
    if name in ("tells-truth", "lies"):
        return (name, *statement[1:])
    return (name, *map(_to_ours, statement[1:]))

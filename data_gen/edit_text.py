"""Changes in the text of a puzzle that another program wrote: only the changed words differ."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from data_gen.puzzle import LEAVES, Puzzle, Statement, with_article
from data_gen.render import plural

_SENTENCE_END = re.compile(r'(?<=[.!?])\s+|(?<=[.!?]["”])\s+')


class _Phrasing(NamedTuple):
    """How a program words its operators; {a} and {b} are claims such as "Ann is a knight" or "Bob is not a knave"."""

    and_: str
    or_: str
    implies: str
    iff: str

    def operator(self, name: str) -> str:
        return getattr(self, name if name in ("implies", "iff") else f"{name}_")


# The published data set and reasoning-gym; our wording "classic".
_PHRASINGS = (
    _Phrasing("{a} and {b}", "{a} or {b}", "if {a} then {b}", "{a} if and only if {b}"),
    _Phrasing("{a} and {b}", "{a} or {b}, or both", "if {a}, then {b}", "{a} if and only if {b}"),
)


def edit_text(
    puzzle: Puzzle,
    names: Sequence[str],
    roles: tuple[str, str],
    statements: Sequence[Statement],
    order: Sequence[int],
) -> str:
    """The puzzle's text with other names or role words, or with one other statement, or with people in another order.

    order: the old index of each person, in the new order of speaking. Raises ValueError if statement or order change
    and the text does not have exactly one sentence for each statement, in a phrasing that we know.
    """
    if list(order) != sorted(order):
        return _reorder(puzzle, order)
    if tuple(statements) != puzzle.statements:
        return _replace_statement(puzzle, statements)
    text = puzzle.quiz
    if tuple(roles) != puzzle.roles:
        text = _replace_words(text, _role_words(puzzle.roles, roles))
    return _replace_words(text, dict(zip(puzzle.names, names, strict=True)))


def _replace_statement(puzzle: Puzzle, statements: Sequence[Statement]) -> str:
    sentences, found, phrasing = _find_statements(puzzle)
    (speaker,) = (i for i, pair in enumerate(zip(statements, puzzle.statements, strict=True)) if pair[0] != pair[1])
    index, start, end = found[speaker]
    sentence, clause = sentences[index], _clause(puzzle, statements[speaker], phrasing)
    if clause is None:
        raise _unknown(puzzle, speaker)
    # The first letter is a capital after a quotation mark, as before; a name always has its own.
    if sentence[start].isupper() and sentence[start - 1 : start] in ('"', "“"):
        clause = clause[0].upper() + clause[1:]
    sentences[index] = sentence[:start] + clause + sentence[end:]
    return " ".join(sentences)


def _reorder(puzzle: Puzzle, order: Sequence[int]) -> str:
    sentences, found, _ = _find_statements(puzzle)
    places = sorted(index for index, _, _ in found)
    moved = list(sentences)
    for place, person in zip(places, order, strict=True):
        moved[place] = sentences[found[person][0]]
    if moved == sentences:  # in this text, the people do not speak in the order of their names
        raise ValueError(f"expected another order of speaking, got that of the text of {puzzle.id}; leave it out.")
    return " ".join(moved)


def _find_statements(puzzle: Puzzle) -> tuple[list[str], list[tuple[int, int, int]], _Phrasing]:
    """The text's sentences, (sentence, start, end) of each statement in them, and the phrasing."""
    sentences = _SENTENCE_END.split(puzzle.quiz)
    failed = 0
    for phrasing in reversed(_PHRASINGS):  # the second one has the longer "or"
        found = [_find(puzzle, speaker, sentences, phrasing) for speaker in range(len(puzzle.names))]
        if None not in found and len({place[0] for place in found}) == len(found):
            return sentences, found, phrasing
        failed = found.index(None) if None in found else 0
    raise _unknown(puzzle, failed)


def _find(puzzle: Puzzle, speaker: int, sentences: list[str], phrasing: _Phrasing) -> tuple[int, int, int] | None:
    """(sentence, start, end) of a person's statement; None unless exactly one sentence has it."""
    clause = _clause(puzzle, puzzle.statements[speaker], phrasing)
    if clause is None:
        return None
    places = []
    for index, sentence in enumerate(sentences):
        match = re.search(rf"(?<!\w){re.escape(clause)}(?!\w)", sentence, re.IGNORECASE)
        if match and _names_in(sentence[: match.start()] + sentence[match.end() :], puzzle) == {puzzle.names[speaker]}:
            places.append((index, *match.span()))
    return places[0] if len(places) == 1 else None


def _names_in(text: str, puzzle: Puzzle) -> set[str]:
    return {name for name in puzzle.names if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)}


def _clause(puzzle: Puzzle, statement: Statement, phrasing: _Phrasing) -> str | None:
    """A statement in words; None if its operator is not over one or two claims."""
    name, parts = statement[0], statement[1:]
    if name in LEAVES or name == "not":
        return _claim(puzzle, statement)
    claims = [_claim(puzzle, part) for part in parts]
    if len(claims) != 2 or None in claims:
        return None
    return phrasing.operator(name).format(a=claims[0], b=claims[1])


def _claim(puzzle: Puzzle, statement: Statement) -> str | None:
    """A claim about one person, or its denial; None for other statements."""
    is_denied = statement[0] == "not"
    claim = statement[1] if is_denied else statement
    if claim[0] not in LEAVES:
        return None
    role = with_article(puzzle.roles[claim[0] == "lies"])
    return f"{puzzle.names[claim[1]]} is {'not ' if is_denied else ''}{role}"


def _role_words(old: tuple[str, str], new: tuple[str, str]) -> dict[str, str]:
    words = {}
    for before, after in zip(old, new, strict=True):
        words |= {with_article(before): with_article(after), before: after, plural(before): plural(after)}
    return words


def _replace_words(text: str, words: Mapping[str, str]) -> str:
    """Replace all words at once; a capital first letter stays one."""
    changed = {word.casefold(): other for word, other in words.items()}

    def replace(match: re.Match) -> str:
        other = changed[match[0].casefold()]
        return other[0].upper() + other[1:] if match[0][0].isupper() else other

    longest_first = sorted(words, key=len, reverse=True)
    pattern = "|".join(map(re.escape, longest_first))
    return re.sub(rf"(?<!\w)(?:{pattern})(?!\w)", replace, text, flags=re.IGNORECASE)


def _unknown(puzzle: Puzzle, speaker: int) -> ValueError:
    return ValueError(
        f"expected one sentence for each statement, in a phrasing that can be edited, got {puzzle.id}, where that of "
        f"{puzzle.names[speaker]} is not found; leave it out, or set a wording to write the whole puzzle again."
    )

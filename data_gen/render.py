"""Statements into English."""

from collections.abc import Callable, Sequence
from functools import lru_cache

from data_gen.names import PLURALS
from data_gen.puzzle import LEAVES, Statement
from data_gen.wording import CLAIMS, PAIR_WAYS, QUOTES, SCENES, WAYS

_PLAIN_WAYS = {
    "not": ("it is not true that ", "", ""),
    "and": ("", " and ", ""),
    "or": ("", " or ", ""),
    "implies": ("if ", " then ", ""),
    "iff": ("", " if and only if ", ""),
}
_TWO_WAYS = {name: ways + PAIR_WAYS.get(name, ()) for name, ways in WAYS.items()}


def render(
    statements: Sequence[Statement],
    names: Sequence[str],
    roles: tuple[str, str],
    wording: str = "plain",
    draw: Callable[[], float] | None = None,
) -> str:
    """The quiz: what everybody says, in the order of speaking.

    wording "plain": one sentence a person, one fixed way of saying, nothing else. "varied": a scene, then
    quoted sentences; each way of saying is chosen by one number in [0, 1) from `draw` (None: always the first
    way). An operator inside an operator stands in parentheses in both. Raises ValueError for another wording.
    """
    if wording == "plain":
        said = (_plain(statement, names, roles) for statement in statements)
        return " ".join(f"{name} says: {text}." for name, text in zip(names, said, strict=False))
    if wording != "varied":
        raise ValueError(f'expected the wording "varied" or "plain", got {wording!r}.')
    draw = draw or (lambda: 0.0)
    sentences = [SCENES[int(draw() * len(SCENES))].format(people=listed(names))]
    for name, statement in zip(names, statements, strict=False):
        quote = QUOTES[int(draw() * len(QUOTES))]
        said = _varied(statement, names, roles, draw)
        sentences.append(quote.format(name=name, said=said[0].upper() + said[1:]))
    return " ".join(sentences)


def with_article(word: str) -> str:
    """a knave, an owl."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def plural(word: str) -> str:
    """knaves, thieves; a role word of the user's own gets an s."""
    return PLURALS.get(word, f"{word}s")


def listed(words: Sequence[str]) -> str:
    """Ann, Bob and Cal."""
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _plain(statement: Statement, names: Sequence[str], roles: tuple[str, str]) -> str:
    kind = statement[0]
    if kind in LEAVES:
        role = roles[0] if kind == "tells-truth" else roles[1]
        return f"{names[statement[1]]} is {with_article(role)}"
    parts = [(_plain(part, names, roles), part[0] in LEAVES) for part in statement[1:]]
    return _join(_PLAIN_WAYS[kind], parts)


@lru_cache(maxsize=64)
def _claims(roles: tuple[str, str]) -> tuple[list[list[str]], list[list[str]]]:
    """(what comes before the name, what comes after it) for claims that one is honest, and that one lies."""
    return tuple(
        [claims[side].format(name="\0", role=with_article(role), roles=plural(role)).split("\0") for claims in CLAIMS]
        for side, role in enumerate(roles)
    )


def _varied(statement: Statement, names: Sequence[str], roles: tuple[str, str], draw: Callable[[], float]) -> str:
    kind = statement[0]
    if kind in LEAVES:
        before, after = _claims(roles)[kind == "lies"][int(draw() * len(CLAIMS))]
        return before + names[statement[1]] + after
    ways = _TWO_WAYS[kind] if len(statement) == 3 else WAYS[kind]
    way = ways[int(draw() * len(ways))]
    return _join(way, [(_varied(part, names, roles, draw), part[0] in LEAVES) for part in statement[1:]])


def _join(way: tuple[str, str, str], parts: Sequence[tuple[str, bool]]) -> str:
    """The operands (text, whether it is a bare claim) joined in one way of saying."""
    before, between, after = way
    return before + between.join([text if bare else f"({text})" for text, bare in parts]) + after

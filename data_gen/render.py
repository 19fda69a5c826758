"""Statements as English text."""

from collections.abc import Callable, Sequence
from functools import lru_cache

from data_gen.names import PLURALS
from data_gen.puzzle import LEAVES, Statement
from data_gen.wording import CLAIMS, PAIR_PHRASINGS, PHRASINGS, QUOTES, SCENES

_PLAIN_PHRASINGS = {
    "not": ("it is not true that ", "", ""),
    "and": ("", " and ", ""),
    "or": ("", " or ", ""),
    "implies": ("if ", " then ", ""),
    "iff": ("", " if and only if ", ""),
}
_BINARY_PHRASINGS = {name: phrasings + PAIR_PHRASINGS.get(name, ()) for name, phrasings in PHRASINGS.items()}


def render(
    statements: Sequence[Statement],
    names: Sequence[str],
    roles: tuple[str, str],
    wording: str = "plain",
    uniform: Callable[[], float] | None = None,
) -> str:
    """The quiz: everybody's statement, in the order of speaking.

    wording: "plain" is one sentence per person, with one fixed phrasing per operator. "varied" is a scene and quoted
    sentences; each phrasing is selected by a number from `uniform`, in [0, 1) (None: always the first phrasing).
    Nested operators are in parentheses. Raises ValueError for another wording.
    """
    if wording == "plain":
        texts = (_plain(statement, names, roles) for statement in statements)
        return " ".join(f"{name} says: {text}." for name, text in zip(names, texts, strict=False))
    if wording != "varied":
        raise ValueError(f'expected the wording "varied" or "plain", got {wording!r}.')
    uniform = uniform or (lambda: 0.0)
    sentences = [SCENES[int(uniform() * len(SCENES))].format(people=listed(names))]
    for name, statement in zip(names, statements, strict=False):
        quote = QUOTES[int(uniform() * len(QUOTES))]
        text = _varied(statement, names, roles, uniform)
        sentences.append(quote.format(name=name, said=text[0].upper() + text[1:]))
    return " ".join(sentences)


def with_article(word: str) -> str:
    """The word with its article: a knave, an owl."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def plural(word: str) -> str:
    """The plural of a role word: knaves, thieves; an unknown word gets an s."""
    return PLURALS.get(word, f"{word}s")


def listed(words: Sequence[str]) -> str:
    """The words as a list: Ann, Bob and Cal."""
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _plain(statement: Statement, names: Sequence[str], roles: tuple[str, str]) -> str:
    kind = statement[0]
    if kind in LEAVES:
        role = roles[0] if kind == "tells-truth" else roles[1]
        return f"{names[statement[1]]} is {with_article(role)}"
    parts = [(_plain(part, names, roles), part[0] in LEAVES) for part in statement[1:]]
    return _join(_PLAIN_PHRASINGS[kind], parts)


@lru_cache(maxsize=64)
def _claims(roles: tuple[str, str]) -> tuple[list[list[str]], list[list[str]]]:
    """[text before the name, text after it] of every claim, for honest persons and for liars."""
    return tuple(
        [claims[side].format(name="\0", role=with_article(role), roles=plural(role)).split("\0") for claims in CLAIMS]
        for side, role in enumerate(roles)
    )


def _varied(statement: Statement, names: Sequence[str], roles: tuple[str, str], uniform: Callable[[], float]) -> str:
    kind = statement[0]
    if kind in LEAVES:
        before, after = _claims(roles)[kind == "lies"][int(uniform() * len(CLAIMS))]
        return before + names[statement[1]] + after
    phrasings = _BINARY_PHRASINGS[kind] if len(statement) == 3 else PHRASINGS[kind]
    phrasing = phrasings[int(uniform() * len(phrasings))]
    return _join(phrasing, [(_varied(part, names, roles, uniform), part[0] in LEAVES) for part in statement[1:]])


def _join(phrasing: tuple[str, str, str], parts: Sequence[tuple[str, bool]]) -> str:
    """The operands, (text, whether it is a leaf), joined by a phrasing."""
    before, between, after = phrasing
    return before + between.join([text if leaf else f"({text})" for text, leaf in parts]) + after

"""Statements as English text."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from data_gen.names import PLURALS
from data_gen.puzzle import LEAVES, Statement
from data_gen.wording import LISTED, OPPOSITE, ORDINALS, WORDINGS, Wording

_PLAIN_PHRASINGS = {
    "not": ("it is not true that ", "", ""),
    "and": ("", " and ", ""),
    "or": ("", " or ", ""),
    "implies": ("if ", " then ", ""),
    "iff": ("", " if and only if ", ""),
}


def render(
    statements: Sequence[Statement],
    names: Sequence[str],
    roles: tuple[str, str],
    wording: str = "plain",
    uniform: Callable[[], float] | None = None,
    *,
    first_person: bool = False,
) -> str:
    """The quiz: everybody's statement, in the order of speaking.

    wording: "classic" and "varied" are a scene and quoted sentences (`data_gen.wording`); each phrasing is selected by
    a number from `uniform`, in [0, 1) (None: always the first phrasing). "plain" is one sentence per person, with one
    fixed phrasing per operator, and nested operators in parentheses. first_person: speakers call themselves "I", not by
    their name. Raises ValueError for another wording.
    """
    if wording == "plain":
        texts = (
            _plain(statement, names, roles, speaker if first_person else None)
            for speaker, statement in enumerate(statements)
        )
        return " ".join(f"{name} says: {text}." for name, text in zip(names, texts, strict=False))
    if wording not in WORDINGS:
        raise ValueError(f"expected a wording out of {', '.join((*WORDINGS, 'plain'))}, got {wording!r}.")
    writer = _Writer(WORDINGS[wording], _claims(wording, roles), tuple(names), roles, uniform or (lambda: 0.0))
    return writer.quiz(statements, first_person)


def with_article(word: str) -> str:
    """The word with its article: a knave, an owl."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def plural(word: str) -> str:
    """The plural of a role word: knaves, thieves; an unknown word gets an s."""
    return PLURALS.get(word, f"{word}s")


def listed(words: Sequence[str]) -> str:
    """The words as a list: Ann, Bob and Cal."""
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _plain(statement: Statement, names: Sequence[str], roles: tuple[str, str], own: int | None) -> str:
    kind = statement[0]
    if kind in LEAVES:
        role = with_article(roles[0] if kind == "tells-truth" else roles[1])
        return f"I am {role}" if statement[1] == own else f"{names[statement[1]]} is {role}"
    before, between, after = _PLAIN_PHRASINGS[kind]
    texts = [(_plain(part, names, roles, own), part[0] in LEAVES) for part in statement[1:]]
    return before + between.join([text if leaf else f"({text})" for text, leaf in texts]) + after


@lru_cache(maxsize=64)
def _role_words(roles: tuple[str, str]) -> dict[str, str]:
    truth, lie = roles
    return {"truth": with_article(truth), "lie": with_article(lie), "truths": plural(truth), "lies": plural(lie)}


@lru_cache(maxsize=64)
def _claims(wording: str, roles: tuple[str, str]) -> dict[tuple[str, bool, bool], list[tuple[str, str]]]:
    """(kind of claim, whether denied, whether in the first person) -> the texts before and after the name."""
    claims = WORDINGS[wording].claims
    table = {}
    for side, kind in enumerate(LEAVES):
        words = {"name": "\0", "role": with_article(roles[side]), "roles": plural(roles[side])}
        for denied in (False, True):
            others = [(claim.others_denied if denied else claim.others)[side] for claim in claims]
            own = [(claim.own_denied if denied else claim.own)[side] for claim in claims]
            table[kind, denied, False] = [tuple(text.format(**words).split("\0")) for text in others]
            table[kind, denied, True] = [(text.format(**words), "") for text in own]
    return table


class _Writer(NamedTuple):
    """Writes the statements of one puzzle."""

    wording: Wording
    claims: dict[tuple[str, bool, bool], list[tuple[str, str]]]
    names: tuple[str, ...]
    roles: tuple[str, str]
    uniform: Callable[[], float]

    def quiz(self, statements: Sequence[Statement], first_person: bool) -> str:
        sentences = [self._select(self.wording.scenes).format(people=listed(self.names))]
        for speaker, statement in enumerate(statements):
            own = speaker if first_person and _mentions(statement, speaker) else None
            frames = self.wording.quotations if own is not None else self.wording.quotations + self.wording.reports
            frame = self._select(frames)
            said = self._sentence(statement, own)
            if '"' in frame:
                said = said[0].upper() + said[1:]
            sentences.append(frame.format(name=self.names[speaker], said=said))
        return " ".join(sentences)

    def _select(self, phrasings: Sequence):
        return phrasings[int(self.uniform() * len(phrasings))] if len(phrasings) > 1 else phrasings[0]

    def _sentence(self, statement: Statement, own: int | None) -> str:
        """A statement that stands alone. own: the person who is "I"."""
        kind, operands = statement[0], statement[1:]
        if kind == "not" and operands[0][0] in LEAVES:
            phrasing = self._select(("", *self.wording.denials))
            return phrasing.format(a=self._claim(operands[0], own)) if phrasing else self._clause(statement, own)
        if len(operands) == 2 and all(map(_is_simple, operands)):
            return self._pair(statement, own, self.wording.spelled.get(kind, ()))
        if len(operands) > 2 and all(map(_is_simple, operands)):
            return self._many(statement, own, self.wording.many[kind])
        return self._clause(statement, own)

    def _clause(self, statement: Statement, own: int | None) -> str:
        """A statement that may be part of another one."""
        kind, operands = statement[0], statement[1:]
        if kind in LEAVES:
            return self._claim(statement, own)
        if kind == "not":
            if operands[0][0] in LEAVES:
                return self._claim(operands[0], own, denied=True)
            return OPPOSITE.format(a=self._clause(operands[0], own))
        if not all(map(_is_simple, operands)):
            items = [f"{ORDINALS[i]}, {self._operand(part, own)}" for i, part in enumerate(operands)]
            return f"{LISTED[kind][min(len(items), 3)]}: {'; '.join(items)}"
        if len(operands) == 2:
            return self._pair(statement, own, ())
        return self._many(statement, own, self.wording.many[kind][:1])

    def _operand(self, statement: Statement, own: int | None) -> str:
        """An item of a list; in parentheses if it has a list itself."""
        text = self._clause(statement, own)
        return f"({text})" if ";" in text else text

    def _many(self, statement: Statement, own: int | None, phrasings: Sequence[tuple[str, str, str]]) -> str:
        """An operator over three or more claims or denied claims."""
        text, between, last = self._select(phrasings)
        items = [self._clause(part, own) for part in statement[1:]]
        return text.format(items=between.join(items[:-1]) + last + items[-1])

    def _pair(self, statement: Statement, own: int | None, further: tuple[str, ...]) -> str:
        """An operator over two claims or denied claims, by an inline phrasing or one of `further`."""
        kind, a, b = statement
        shared = ()
        if a[0] in LEAVES and b[0] in LEAVES:
            shared = self.wording.shared.get((kind, a[0] == b[0]), ())
        phrasing = self._select(self.wording.inline[kind] + further + shared)
        if "{b}" in phrasing:
            return phrasing.format(a=self._clause(a, own), b=self._clause(b, own))
        words = _role_words(self.roles)
        side = "lie" if a[0] == "lies" else "truth"
        persons = [self.names[claim[1]] for claim in (a, b) if claim[1] != own]
        me = ["me"] * (own in (a[1], b[1]))
        return phrasing.format(
            pair=" and ".join(persons + (["I"] if me else [])),
            pair_object=" and ".join(persons + me),
            role=words[side],
            roles=words[f"{side}s"],
            **words,
        )

    def _claim(self, claim: Statement, own: int | None, denied: bool = False) -> str:
        before, after = self._select(self.claims[claim[0], denied, claim[1] == own])
        return before + after if claim[1] == own else before + self.names[claim[1]] + after


def _is_simple(statement: Statement) -> bool:
    """Whether a statement is a claim or a denied claim."""
    return statement[0] in LEAVES or (statement[0] == "not" and statement[1][0] in LEAVES)


def _mentions(statement: Statement, person: int) -> bool:
    if statement[0] in LEAVES:
        return statement[1] == person
    return any(_mentions(part, person) for part in statement[1:])

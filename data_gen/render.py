"""Statements as English text."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from data_gen.names import PLURALS
from data_gen.puzzle import LEAVES, Statement, with_article
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
    writer = _Writer(_phrases(wording, roles), names, uniform or (lambda: 0.0))
    return writer.quiz(statements, first_person)


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


class _Phrases(NamedTuple):
    """The phrasings of a wording with the words of two roles.

    pairs: (operator, whether it stands alone, whether its claims are of one kind or None) -> phrasings.
    claims: (kind of claim, whether denied, whether in the first person) -> texts before and after the name.
    """

    wording: Wording
    frames: tuple[str, ...]
    pairs: dict[tuple[str, bool, bool | None], tuple[str, ...]]
    claims: dict[tuple[str, bool, bool], list[tuple[str, str]]]
    roles: dict[str, str]


@lru_cache(maxsize=64)
def _phrases(name: str, roles: tuple[str, str]) -> _Phrases:
    wording, (truth, lie) = WORDINGS[name], roles
    pairs = {
        (kind, alone, same): inline
        + (wording.spelled.get(kind, ()) if alone else ())
        + (wording.shared.get((kind, same), ()) if same is not None else ())
        for kind, inline in wording.inline.items()
        for alone in (False, True)
        for same in (None, False, True)
    }
    claims = {}
    for side, kind in enumerate(LEAVES):
        words = {"name": "\0", "role": with_article(roles[side]), "roles": plural(roles[side])}
        for denied in (False, True):
            others = [(claim.others_denied if denied else claim.others)[side] for claim in wording.claims]
            own = [(claim.own_denied if denied else claim.own)[side] for claim in wording.claims]
            claims[kind, denied, False] = [tuple(text.format(**words).split("\0")) for text in others]
            claims[kind, denied, True] = [(text.format(**words), "") for text in own]
    words = {"truth": with_article(truth), "lie": with_article(lie), "truths": plural(truth), "lies": plural(lie)}
    return _Phrases(wording, wording.quotations + wording.reports, pairs, claims, words)


class _Writer:
    """Writes the statements of one puzzle."""

    def __init__(self, phrases: _Phrases, names: Sequence[str], uniform: Callable[[], float]):
        self.wording, self.frames, self.pairs, self.claims, self.roles = phrases
        self.names, self.uniform = names, uniform
        self.own: int | None = None  # the person who is "I"

    def quiz(self, statements: Sequence[Statement], first_person: bool) -> str:
        sentences = [self._select(self.wording.scenes).format(people=listed(self.names))]
        frames = list(self.frames)  # nobody is quoted twice in the same way
        for speaker, statement in enumerate(statements):
            self.own = speaker if first_person and _mentions(statement, speaker) else None
            frame = self._select(frames if self.own is None else [frame for frame in frames if '"' in frame])
            frames.remove(frame)
            said = self._sentence(statement)
            if '"' in frame:
                said = said[0].upper() + said[1:]
            sentences.append(frame.format(name=self.names[speaker], said=said))
        return " ".join(sentences)

    def _select(self, phrasings: Sequence):
        return phrasings[int(self.uniform() * len(phrasings))] if len(phrasings) > 1 else phrasings[0]

    def _sentence(self, statement: Statement) -> str:
        """A statement that stands alone."""
        kind = statement[0]
        if kind == "not" and self.wording.denials and statement[1][0] in LEAVES:
            phrasing = self._select(("", *self.wording.denials))
            return phrasing.format(a=self._clause(statement[1])) if phrasing else self._clause(statement)
        return self._clause(statement, alone=True)

    def _clause(self, statement: Statement, alone: bool = False) -> str:
        """A statement that may be part of another one, unless it is `alone`."""
        kind = statement[0]
        if kind in LEAVES:
            return self._claim(statement, False)
        if kind == "not":
            inside = statement[1]
            return self._claim(inside, True) if inside[0] in LEAVES else OPPOSITE.format(a=self._clause(inside))
        operands = statement[1:]
        are_claims = [part[0] in LEAVES for part in operands]
        if not all(are_claims) and not all(map(_is_simple, operands)):
            items = [f"{ORDINALS[i]}, {self._item(part)}" for i, part in enumerate(operands)]
            return f"{LISTED[kind][min(len(items), 3)]}: {'; '.join(items)}"
        if len(operands) == 2:
            a, b = operands
            about_two = all(are_claims) and a[1] != b[1]
            return self._pair(kind, a, b, alone, (a[0] == b[0]) if about_two else None)
        phrasings = self.wording.many[kind]
        text, between, last = self._select(phrasings if alone else phrasings[:1])
        items = [self._clause(part) for part in operands]
        return text.format(items=between.join(items[:-1]) + last + items[-1])

    def _item(self, statement: Statement) -> str:
        """An item of a list; in parentheses if it has a list itself."""
        text = self._clause(statement)
        return f"({text})" if ";" in text else text

    def _pair(self, kind: str, a: Statement, b: Statement, alone: bool, same: bool | None) -> str:
        """An operator over two claims or denied claims.

        same: whether two claims about two people are of one kind; None for other operands.
        """
        phrasing = self._select(self.pairs[kind, alone, same])
        if "{b}" in phrasing:
            return phrasing.format(a=self._clause(a), b=self._clause(b))
        side = "lie" if a[0] == "lies" else "truth"
        persons: list[str] = [self.names[claim[1]] for claim in (a, b) if claim[1] != self.own]
        speaks = len(persons) == 1
        return phrasing.format(
            pair=" and ".join([*persons, "I"] if speaks else persons),
            pair_object=" and ".join([*persons, "me"] if speaks else persons),
            role=self.roles[side],
            roles=self.roles[f"{side}s"],
            **self.roles,
        )

    def _claim(self, claim: Statement, denied: bool) -> str:
        kind: str = claim[0]
        person: int = claim[1]
        own = person == self.own
        texts = self.claims[kind, denied, own]
        before, after = texts[int(self.uniform() * len(texts))] if len(texts) > 1 else texts[0]
        return before if own else before + self.names[person] + after


def _is_simple(statement: Statement) -> bool:
    """Whether a statement is a claim or a denied claim."""
    return statement[0] in LEAVES or (statement[0] == "not" and statement[1][0] in LEAVES)


def _mentions(statement: Statement, person: int) -> bool:
    if statement[0] in LEAVES:
        return statement[1] == person
    return any(_mentions(part, person) for part in statement[1:])

"""Version 2 of the parser of roles: every word of an answer must be part of a plain statement of roles.

`answers.lexer` splits the answer into tokens and refuses unknown words (if, maybe, says, an unknown name, a word with a
letter of another script), `answers.grammar` parses statements, and `read_roles` combines them: each person gets exactly
one role. Negations, doubts, conditions, alternatives, questions and retractions are never read as assertions.
"""

from typing import NamedTuple

from jaxrl.answers.grammar import EVERYONE, NOBODY_NAMED, REST, RoleClaim, RoleGrammar
from jaxrl.answers.lexer import lexicon_of, tokenize


class Reading(NamedTuple):
    """The roles that an answer asserts: an index for each person (0 truth, 1 lie), or None and the reason."""

    roles: tuple[int, ...] | None
    reason: str


def read_end(text: str, names: tuple[str, ...], roles: tuple[str, str]) -> Reading:
    """Like `read_roles`, for the last sentences of a longer text.

    Rejects "the others" and "everyone": sentences that are not part of `text` may name other persons.
    """
    return read_roles(text, names, roles, whole=False)


def read_roles(answer: str, names: tuple[str, ...], roles: tuple[str, str], *, whole: bool = True) -> Reading:
    """Parse one role for every person from `answer` (NFC).

    Accepts sentences, lists, `X: role`, grouped lists (`Knights: X, Y`), "the others are knaves", tables, JSON, YAML
    and TeX, in any order and letter case. Rejects answers longer than 1,000 + 250 characters per person, a person
    without a role or with two statements, and everything but plain assertions. whole: see `read_end`.
    """
    if not answer.strip():
        return Reading(None, "the answer is empty")
    limit = 1000 + 250 * len(names)
    if len(answer) > limit:
        return Reading(
            None,
            f"the answer has {len(answer)} characters, a plain statement of the roles has at most {limit}",
        )
    tokens = tokenize(answer, lexicon_of(names, roles), names)
    if isinstance(tokens, str):
        return Reading(None, f"the answer contains {tokens[:40]!r}, which is not part of a statement of roles")
    grammar = RoleGrammar(tokens)
    claims = grammar.parse()
    if claims is None:
        position = min(grammar.position, max(len(tokens) - 1, 0))
        seen = " ".join(token.text for token in tokens[position : position + 6]).replace("\n", " ")
        return Reading(None, f"there is no plain statement of a role at {seen!r}")
    if not whole and any(claim.who in (REST, EVERYONE) for claim in claims):
        return Reading(None, "it is not clear who the others are")
    return _combine(claims, names)


def _combine(claims: list[RoleClaim], names: tuple[str, ...]) -> Reading:
    """The role of each person, if the statements give each person one role and agree with each other."""
    found: dict[int, int] = {}
    only = []
    for claim in claims:
        if any(implied != claim.role for implied in claim.implied):
            return Reading(None, "the answer contradicts itself about a role")
        if claim.who == NOBODY_NAMED:
            if claim.count not in (None, len(names)):
                return Reading(None, f"the answer speaks of {claim.count} persons, the puzzle of {len(names)}")
            continue
        who = _persons(claim, found, len(names))
        if claim.count is not None and claim.count != len(who):
            return Reading(None, f"the answer speaks of {claim.count} persons but gives a role to {len(who)}")
        if isinstance(claim.who, str) and not who:
            return Reading(None, "the answer gives a role to the others, but nobody is left")
        for person in who:
            if person in found:
                return Reading(None, f"{names[person]} is given a role twice")
            found[person] = claim.role
        only += [(claim.role, set(who))] if claim.only else []
    for claim in claims:
        for person in claim.but:
            if found.setdefault(person, 1 - claim.role) == claim.role:
                return Reading(None, f"the answer contradicts itself about {names[person]}")
    missing = [name for index, name in enumerate(names) if index not in found]
    if missing:
        return Reading(None, f"no role is given to {', '.join(missing)}")
    if any(claim.who == () and claim.role in found.values() for claim in claims):
        return Reading(None, "the answer contradicts itself: it assigns a role that it says nobody has")
    if any(who != {person for person in found if found[person] == role} for role, who in only):
        return Reading(None, "the answer contradicts itself about the only person with a role")
    return Reading(tuple(found[index] for index in range(len(names))), "")


def _persons(claim: RoleClaim, found: dict[int, int], people: int) -> tuple[int, ...]:
    if claim.who == REST and not found:
        return ()
    if claim.who in (REST, EVERYONE):
        left_out = claim.but if claim.who == EVERYONE else found
        return tuple(person for person in range(people) if person not in left_out)
    assert isinstance(claim.who, tuple)
    return claim.who

"""The wording is unambiguous at every depth: statements can be parsed back from it."""

import re

import pytest

from data_gen.generate import PuzzleSpec, generate
from data_gen.names import PLURALS
from data_gen.render import render
from data_gen.wording import CLAIMS, PAIR_PHRASINGS, PHRASINGS, QUOTES, SCENES

pytestmark = pytest.mark.check


def readings(text, names, roles):
    """All statements that `text` can mean, parsed from the innermost parentheses outwards."""
    claims = {}
    for i, name in enumerate(names):
        for pair in CLAIMS:
            for kind, claim, role in zip(("tells-truth", "lies"), pair, roles, strict=True):
                article = "an" if role[0] in "aeiou" else "a"
                claims[claim.format(name=name, role=f"{article} {role}", roles=PLURALS[role]).lower()] = (
                    kind,
                    i,
                )
    groups = []

    def operand(piece):
        if re.fullmatch(r"\d+", piece):
            return groups[int(piece)]
        return claims.get(piece)

    def parses(piece):
        found = {operand(piece)} - {None}
        for kind, phrasings in PHRASINGS.items():
            for before, between, after in phrasings + PAIR_PHRASINGS.get(kind, ()):
                if piece.startswith(before) and piece.endswith(after):
                    inside = piece[len(before) : len(piece) - len(after)]
                    parts = [operand(p) for p in inside.split(between)] if between else [operand(inside)]
                    if None not in parts and (len(parts) > 1 or kind == "not"):
                        found.add((kind, *parts))
        return found

    text = text.lower()
    while group := re.search(r"\(([^()]*)\)", text):
        found = parses(group[1])
        assert len(found) == 1, (group[1], found)
        groups.append(found.pop())
        text = text.replace(group[0], str(len(groups) - 1), 1)
    return parses(text)


@pytest.mark.parametrize("spec", [PuzzleSpec(3, depth=1, width=3), PuzzleSpec(5, width=3), PuzzleSpec(4, depth=4)])
def test_varied_wording_parses_to_the_statements(spec):
    for puzzle in generate(spec, seed=1, count=60):
        quoted = re.findall(r'"([^"]*?)[.,]"', puzzle.quiz)
        assert len(quoted) == len(puzzle.names)
        for quote, statement in zip(quoted, puzzle.statements, strict=True):
            assert readings(quote, puzzle.names, puzzle.roles) == {statement}


def test_there_are_enough_phrasings():
    phrasings = len(CLAIMS) + sum(len(w) for w in PHRASINGS.values()) + sum(len(w) for w in PAIR_PHRASINGS.values())
    assert phrasings >= 20 and len(QUOTES) >= 8 and len(SCENES) >= 8
    assert len({puzzle.roles for puzzle in generate(PuzzleSpec(3), 0, 100)}) >= 7


def test_plain_wording_is_fixed():
    bob, cal = ("lies", 1), ("tells-truth", 2)
    names, roles = ("Ann", "Bob", "Cal"), ("knight", "knave")

    def plain_text(statement):
        return render((statement,), names, roles, "plain")

    assert plain_text(bob) == "Ann says: Bob is a knave."
    assert plain_text(("and", bob, cal)) == "Ann says: Bob is a knave and Cal is a knight."
    assert plain_text(("or", bob, cal)) == "Ann says: Bob is a knave or Cal is a knight."
    assert plain_text(("implies", bob, cal)) == "Ann says: if Bob is a knave then Cal is a knight."
    assert plain_text(("iff", bob, cal)) == "Ann says: Bob is a knave if and only if Cal is a knight."
    assert plain_text(("not", bob)) == "Ann says: it is not true that Bob is a knave."
    nested = ("and", ("not", bob), ("or", bob, cal))
    assert (
        plain_text(nested) == "Ann says: (it is not true that Bob is a knave) and (Bob is a knave or Cal is a knight)."
    )
    assert plain_text(("not", nested[2])) == "Ann says: it is not true that (Bob is a knave or Cal is a knight)."
    assert render((bob, cal, bob), names, roles, "plain").count(" says: ") == 3

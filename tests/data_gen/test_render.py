"""The wording can be read back into the statements, in one way only: it is unambiguous at every depth."""

import re

import pytest

from data_gen.generate import PuzzleSpec, generate
from data_gen.names import PLURALS
from data_gen.render import render
from data_gen.wording import CLAIMS, PAIR_WAYS, QUOTES, SCENES, WAYS


def readings(text, names, roles):
    """Every statement that `text` can be, by undoing innermost brackets first."""
    claims = {}
    for i, name in enumerate(names):
        for pair in CLAIMS:
            for kind, claim, role in zip(("tells-truth", "lies"), pair, roles, strict=True):
                article = "an" if role[0] in "aeiou" else "a"
                claims[claim.format(name=name, role=f"{article} {role}", roles=PLURALS[role]).lower()] = (
                    kind,
                    i,
                )
    boxes = []

    def part(piece):
        if re.fullmatch(r"\d+", piece):
            return boxes[int(piece)]
        return claims.get(piece)

    def flat(piece):
        found = {part(piece)} - {None}
        for kind, ways in WAYS.items():
            for before, between, after in ways + PAIR_WAYS.get(kind, ()):
                if piece.startswith(before) and piece.endswith(after):
                    inside = piece[len(before) : len(piece) - len(after)]
                    parts = [part(p) for p in inside.split(between)] if between else [part(inside)]
                    if None not in parts and (len(parts) > 1 or kind == "not"):
                        found.add((kind, *parts))
        return found

    text = text.lower()
    while bracket := re.search(r"\(([^()]*)\)", text):
        found = flat(bracket[1])
        assert len(found) == 1, (bracket[1], found)
        boxes.append(found.pop())
        text = text.replace(bracket[0], str(len(boxes) - 1), 1)
    return flat(text)


@pytest.mark.parametrize("spec", [PuzzleSpec(3, depth=1, width=3), PuzzleSpec(5, width=3), PuzzleSpec(4, depth=4)])
def test_varied_wording_reads_back(spec):
    for puzzle in generate(spec, seed=1, count=60):
        quoted = re.findall(r'"([^"]*?)[.,]"', puzzle.quiz)
        assert len(quoted) == len(puzzle.names)
        for said, statement in zip(quoted, puzzle.statements, strict=True):
            assert readings(said, puzzle.names, puzzle.roles) == {statement}


def test_enough_ways_of_saying():
    ways = len(CLAIMS) + sum(len(w) for w in WAYS.values()) + sum(len(w) for w in PAIR_WAYS.values())
    assert ways >= 20 and len(QUOTES) >= 8 and len(SCENES) >= 8
    assert len({puzzle.roles for puzzle in generate(PuzzleSpec(3), 0, 100)}) >= 7


def test_plain_wording_is_fixed():
    bob, cal = ("lies", 1), ("tells-truth", 2)
    names, roles = ("Ann", "Bob", "Cal"), ("knight", "knave")

    def said(statement):
        return render((statement,), names, roles, "plain")

    assert said(bob) == "Ann says: Bob is a knave."
    assert said(("and", bob, cal)) == "Ann says: Bob is a knave and Cal is a knight."
    assert said(("or", bob, cal)) == "Ann says: Bob is a knave or Cal is a knight."
    assert said(("implies", bob, cal)) == "Ann says: if Bob is a knave then Cal is a knight."
    assert said(("iff", bob, cal)) == "Ann says: Bob is a knave if and only if Cal is a knight."
    assert said(("not", bob)) == "Ann says: it is not true that Bob is a knave."
    nested = ("and", ("not", bob), ("or", bob, cal))
    assert said(nested) == "Ann says: (it is not true that Bob is a knave) and (Bob is a knave or Cal is a knight)."
    assert said(("not", nested[2])) == "Ann says: it is not true that (Bob is a knave or Cal is a knight)."
    assert render((bob, cal, bob), names, roles, "plain").count(" says: ") == 3

"""Every phrasing has one meaning: however a sentence is parsed, in all senses of its ambiguous words."""

import itertools
import random
import re

import pytest
from fixtures.statement_reader import Reader

from data_gen.generate import generate
from data_gen.names import ROLES
from data_gen.render import render
from data_gen.solve import holds
from data_gen.spec import PuzzleSpec
from data_gen.wording import LISTED, OPPOSITE, VARIED, WORDINGS

pytestmark = pytest.mark.check

NAMES, KNIGHTS = ("Ann", "Bob", "Cal", "Dora"), ("knight", "knave")
_NAME = r"[^.,\"]+"
_SAID = re.compile(rf'"([^"]*?)[.,]"|According to {_NAME}, ([^".]*)\.|As {_NAME} sees it, ([^".]*)\.')


def said(quiz):
    """The statements as written, in the order of speaking."""
    return ["".join(groups) for groups in _SAID.findall(quiz)]


def meaning_of(statement, people):
    cases = itertools.product((False, True), repeat=people)
    return frozenset(case for case in cases if holds(statement, case))


def assert_one_meaning(quiz, statements, names, roles, first_person):
    texts = said(quiz)
    assert len(texts) == len(statements), quiz
    for speaker, (text, statement) in enumerate(zip(texts, statements, strict=True)):
        reader = Reader(names, roles, speaker if first_person else None)
        assert reader.meanings(text) == {meaning_of(statement, len(names))}, text


def shapes(operands):
    """All statements with one operator over some of the claims `operands`, and wide ones."""
    yield from operands
    yield from (("not", claim) for claim in operands)
    parts = [*operands, ("not", operands[0]), ("not", operands[1])]
    for a, b in itertools.permutations(parts, 2):
        if a[-1] != b[-1] and {a[-1], b[-1]}.isdisjoint({a, b}):
            yield from ((name, a, b) for name in ("and", "or", "implies", "iff"))
    for wide in itertools.combinations(parts, 3):
        yield from ((name, *wide) for name in ("and", "or"))


def operator_phrasings(table):
    yield from table.denials
    yield from (text for row in table.many.values() for text, *_ in row)
    for row in (table.inline, table.spelled, table.shared):
        yield from itertools.chain.from_iterable(row.values())


def check_wording(wording, renderings):
    """Render every shape `renderings` times, each time with other phrasings, and read the sentences."""
    rng = random.Random(0)
    claims = (("tells-truth", 0), ("lies", 1), ("lies", 2), ("tells-truth", 1))
    texts = []
    for shape in shapes(claims):
        for repeat in range(renderings):
            roles, first_person = ROLES[repeat % len(ROLES)], bool(repeat % 2)
            statements = (shape,) * 4
            quiz = render(statements, NAMES, roles, wording, rng.random, first_person=first_person)
            assert_one_meaning(quiz, statements, NAMES, roles, first_person)
            texts += said(quiz)
    return texts


@pytest.mark.parametrize("wording", WORDINGS)
def test_every_phrasing_has_one_meaning(wording):
    texts = check_wording(wording, renderings=6 if wording == "varied" else 2)
    for phrasing in operator_phrasings(WORDINGS[wording]):
        pattern = re.compile(re.sub(r"\\\{\w+\\\}", ".+", re.escape(phrasing)), re.IGNORECASE)
        assert any(map(pattern.fullmatch, texts)), f"no rendering has the phrasing {phrasing!r}"


@pytest.mark.parametrize(
    "spec",
    [
        PuzzleSpec(4, depth=2, wording="classic"),
        PuzzleSpec(4, depth=2, width=3, wording="varied"),
        PuzzleSpec(3, depth=3, wording="classic", first_person=True),
        PuzzleSpec(3, depth=4, width=3, wording="varied"),
    ],
)
def test_nested_statements_have_one_meaning(spec):
    for puzzle in generate(spec, seed=1, count=40 // spec.depth**2):
        assert_one_meaning(puzzle.quiz, puzzle.statements, puzzle.names, puzzle.roles, spec.first_person)
        assert spec.depth > 2 or "(" not in puzzle.quiz


@pytest.mark.parametrize(
    "sentence",
    [
        "Ann is a knight or Bob is a knave",
        "either Ann is a knight or Bob is a knave",
        "either the first of these is false or the second is true: Ann is a knight; Bob is a knave",
        "Ann is a knight, Bob is a knave or Cal is a knave",
        "Ann is a knight unless Bob is a knave",
        "Ann is a knight only if Bob is a knave",
        "it is not true that Ann is a knight and Bob is a knave",
        "Ann is a knight and Bob is a knave if Cal is a knave",
        "if Ann is a knight, then Bob is a knave and Cal is a knave",
        "both of these are true: at least one of these is true: Ann is a knight; Bob is a knave; "
        "Cal is a knave; Dora is a knave",
    ],
)
def test_the_reader_finds_ambiguity(sentence):
    assert len(Reader(NAMES, KNIGHTS).meanings(sentence)) > 1


@pytest.mark.parametrize(
    ("table", "key", "phrasing"),
    [
        ("inline", "or", "either {a} or {b}"),
        ("inline", "or", "{a} or {b}"),
        ("spelled", "implies", "either the first of these is false or the second is true: {a}; {b}"),
        ("inline", "implies", "{a} only if {b}"),
        ("spelled", "and", "{a} beyond all doubt, {b}"),  # nobody has said how to read it
    ],
)
def test_an_ambiguous_or_unknown_phrasing_fails(monkeypatch, table, key, phrasing):
    changed = {**getattr(VARIED, table), key: (phrasing,)}
    monkeypatch.setitem(WORDINGS, f"with {phrasing}", VARIED._replace(**{table: changed}))
    with pytest.raises(AssertionError):
        check_wording(f"with {phrasing}", renderings=2)


def test_either_and_perhaps_more_than_one():
    texts = [OPPOSITE, *(head for heads in LISTED.values() for head in heads.values())]
    for table in WORDINGS.values():
        texts += operator_phrasings(table)
        for_many = [text for row in table.many.values() for text, *_ in row]
        assert not [text for text in texts if "more than one" in text and text not in for_many]
    assert not [text for text in texts if re.search(r"\beither\b", text)]


@pytest.mark.parametrize("wording", WORDINGS)
def test_frames_have_one_speaker_and_one_statement(wording):
    table = WORDINGS[wording]
    for frame in table.quotations + table.reports:
        assert frame.count("{name}") == frame.count("{said}") == 1
        assert ('"' in frame) == (frame in table.quotations)
    assert len(table.quotations + table.reports) >= 20 and len(set(table.quotations)) == len(table.quotations)

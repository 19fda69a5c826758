"""Quizzes: names, roles and phrasings. tests/data_gen/test_wording.py reads what the statements mean."""

import random
import re

import pytest

from data_gen.generate import generate
from data_gen.names import ENGLISH_NAMES, NAME_SETS, PLAIN_NAMES, WORLD_NAMES
from data_gen.prompts import puzzle_instruction, question_text
from data_gen.render import render
from data_gen.spec import PuzzleSpec
from data_gen.wording import WORDINGS
from jaxrl.rewards.role_parser import read_roles

pytestmark = pytest.mark.check

NAMES, KNIGHTS = ("Ann", "Bob", "Cal"), ("knight", "knave")
BOB, CAL = ("lies", 1), ("tells-truth", 2)


def classic_text(statement, **options):
    """The statement of Ann, in the first of all quotations."""
    quiz = render((statement,), NAMES, KNIGHTS, "classic", **options)
    return quiz.removeprefix("You meet Ann, Bob and Cal. Ann says, ")


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        (BOB, "Bob is a knave."),
        (("not", BOB), "Bob is not a knave."),
        (("and", BOB, CAL), "Bob is a knave and Cal is a knight."),
        (("or", BOB, CAL), "Bob is a knave or Cal is a knight, or both."),
        (("implies", BOB, CAL), "If Bob is a knave, then Cal is a knight."),
        (("iff", BOB, CAL), "Bob is a knave if and only if Cal is a knight."),
        (("and", ("lies", 0), BOB, CAL), "Ann is a knave, Bob is a knave and Cal is a knight."),
        (("not", ("and", BOB, CAL)), "The following is false: Bob is a knave and Cal is a knight."),
        (
            ("implies", ("or", BOB, CAL), ("not", BOB)),
            "If the first of these is true, then so is the second: first, Bob is a knave or Cal is a knight, or both; "
            "second, Bob is not a knave.",
        ),
    ],
)
def test_classic_wording(statement, text):
    assert classic_text(statement) == f'"{text}"'


def test_the_first_person():
    mine = ("implies", ("tells-truth", 0), BOB)
    assert classic_text(mine) == '"If Ann is a knight, then Bob is a knave."'
    assert classic_text(mine, first_person=True) == '"If I am a knight, then Bob is a knave."'
    assert classic_text(("not", ("lies", 0)), first_person=True) == '"I am not a knave."'
    assert render((mine,), NAMES, KNIGHTS, "plain", first_person=True) == (
        "Ann says: if I am a knight then Bob is a knave."
    )
    spec = PuzzleSpec(3, wording="varied", first_person=True)
    quizzes = " ".join(puzzle.quiz for puzzle in generate(spec, 0, 200))
    assert "According to" in quizzes and " I am " in quizzes and " and me " in quizzes
    assert not [s for s in quizzes.split(". ") if " I " in f" {s} " and '"' not in s]  # only in quotations


def test_two_claims_about_one_person():
    """Puzzles of other programs have them; nobody says "Bob and Bob"."""
    statements = [(name, BOB, ("tells-truth", 1)) for name in ("and", "or", "iff")] * 40
    quizzes = [
        render((statement,), NAMES, KNIGHTS, "varied", random.Random(i).random)
        for i, statement in enumerate(statements)
    ]
    assert not [quiz for quiz in quizzes if "Bob and Bob" in quiz.partition(". ")[2]]


def test_wordings_differ_in_their_words_only():
    """Puzzle number i has the same statements in classic and in varied wording."""
    pairs = zip(*(generate(PuzzleSpec(4, wording=wording), 3, 30) for wording in ("classic", "varied")), strict=True)
    for classic, varied in pairs:
        assert (classic.statements, classic.solution) == (varied.statements, varied.solution)
        assert classic.quiz != varied.quiz and classic.roles == KNIGHTS


def test_names_in_other_scripts_only_where_requested():
    for wording in ("classic", "varied"):
        texts = {names: "".join(puzzle.quiz for puzzle in generate(PuzzleSpec(5, wording=wording, names=names), 0, 100))
                 for names in NAME_SETS}  # fmt: skip
        assert texts["english"].isascii() and not texts["world"].isascii()
    assert len({puzzle.roles for puzzle in generate(PuzzleSpec(3, wording="varied"), 0, 100)}) >= 7


@pytest.mark.parametrize("wording", WORDINGS)
def test_nobody_is_quoted_twice_in_the_same_way(wording):
    table = WORDINGS[wording]
    for puzzle in generate(PuzzleSpec(12, wording=wording), 0, 5):
        words = {r"\{name\}": f"(?:{'|'.join(puzzle.names)})", r"\{said\}": '[^".]*'}
        counts = []
        for frame in table.quotations + table.reports:
            pattern = re.escape(frame)
            for field, pattern_of_field in words.items():
                pattern = pattern.replace(field, pattern_of_field)
            counts.append(len(re.findall(f'(?<=[."] ){pattern}', puzzle.quiz)))
        assert sum(counts) == 12 and max(counts) == 1


def test_prompts_of_five_people_are_short():
    """Below 160 words, as a mean: about 215 tokens of Qwen2.5, which benchmarks/puzzles.py measures."""
    puzzles = generate(PuzzleSpec(5), 0, 200)
    lengths = [len(f"{puzzle_instruction(puzzle)} {question_text(puzzle, 'chat')}".split()) for puzzle in puzzles]
    assert 100 < sum(lengths) / len(lengths) < 160


def one_letter_away(a, b):
    """Whether one insertion, deletion or substitution makes `b` of `a`."""
    if len(a) > len(b):
        a, b = b, a
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    return len(b) - len(a) < 2 and a[same + (len(a) == len(b)) :] == b[same + 1 :]


def test_no_name_can_be_taken_for_another_name_or_word():
    assert len(ENGLISH_NAMES) >= 300 and len(WORLD_NAMES) >= 100 and len(PLAIN_NAMES) == 12
    for names in (ENGLISH_NAMES, WORLD_NAMES, PLAIN_NAMES):
        folded = [name.casefold() for name in names]
        assert len(set(folded)) == len(names)
        assert not [(a, b) for a in folded for b in folded if a != b and a in b]
    assert not [
        (a, b) for a in ENGLISH_NAMES for b in ENGLISH_NAMES if a != b and one_letter_away(a.lower(), b.lower())
    ]
    assert all(name.isascii() and name.isalpha() and name.istitle() and len(name) > 3 for name in ENGLISH_NAMES)
    assert all(n.isascii() and n.isalpha() and n.istitle() and 2 <= len(n) <= 6 for n in PLAIN_NAMES)


def test_the_scorer_reads_every_name():
    for names in NAME_SETS.values():
        for i in range(0, len(names) - 3, 3):
            trio = names[i : i + 3]
            answer = f"{trio[0]} is a knight, {trio[1]} is a knave, and {trio[2]} is a knight."
            assert read_roles(answer, trio, KNIGHTS).roles == (0, 1, 0)


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

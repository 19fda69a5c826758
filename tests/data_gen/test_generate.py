"""Laws of the generator, checked against a brute-force solver that shares no code with it."""

import hashlib
import itertools
import random

import pytest

from data_gen.dataset import read_jsonl, write_jsonl
from data_gen.generate import PuzzleSpec, canonical, generate, split_of
from data_gen.names import NAMES, PLAIN_NAMES, ROLE_WORDS
from data_gen.perturb import KINDS, perturb
from data_gen.puzzle import depth_of, from_record, to_record
from data_gen.puzzle_sampler import PuzzleSampler
from data_gen.solve import hardness, holds, solutions

pytestmark = pytest.mark.check

SPECS = (
    PuzzleSpec(2, depth=1),
    PuzzleSpec(3, depth=1, wording="plain"),
    PuzzleSpec(4, depth=2, width=3),
    PuzzleSpec(5, depth=3),
    PuzzleSpec(7, depth=2, wording="plain"),
    PuzzleSpec(9, depth=1, width=9),
    PuzzleSpec(3, depth=4, width=3),
)


def brute_force_truth(statement, sides):
    kind, parts = statement[0], statement[1:]
    if kind in ("tells-truth", "lies"):
        return sides[parts[0]] == (kind == "tells-truth")
    values = [brute_force_truth(part, sides) for part in parts]
    if kind == "not":
        return not values[0]
    if kind == "and":
        return False not in values
    if kind == "or":
        return True in values
    return values[0] <= values[1] if kind == "implies" else values[0] == values[1]


def brute_force_solutions(statements):
    every = itertools.product((False, True), repeat=len(statements))
    return [
        s
        for s in every
        if all(brute_force_truth(statement, s) == side for statement, side in zip(statements, s, strict=True))
    ]


def renamed(statement, position, rng):
    kind, parts = statement[0], statement[1:]
    if kind in ("tells-truth", "lies"):
        return (kind, position[parts[0]])
    parts = [renamed(part, position, rng) for part in parts]
    if kind in ("and", "or", "iff"):
        rng.shuffle(parts)
    return (kind, *parts)


def shuffled(statements, rng):
    position = list(range(len(statements)))
    rng.shuffle(position)
    moved = [None] * len(statements)
    for person, statement in enumerate(statements):
        moved[position[person]] = renamed(statement, position, rng)
    return tuple(moved)


@pytest.mark.parametrize("spec", SPECS)
def test_every_puzzle_has_exactly_one_solution(spec):
    for puzzle in generate(spec, seed=3, count=25):
        assert brute_force_solutions(puzzle.statements) == [puzzle.solution]
        assert max(map(depth_of, puzzle.statements)) <= spec.depth
        assert all(
            holds(statement, puzzle.solution) == side
            for statement, side in zip(puzzle.statements, puzzle.solution, strict=True)
        )
        assert hardness(puzzle.statements) == puzzle.hardness


def test_the_solver_finds_all_solutions():
    sampler = PuzzleSampler(PuzzleSpec(4))
    sampler.uniform = random.Random(1).random
    for _ in range(100):
        statements = tuple(sampler.statement() for _ in range(4))
        found = [tuple(bool(answer >> i & 1) for i in range(4)) for answer in solutions(statements)]
        assert sorted(found) == brute_force_solutions(statements)


def test_a_puzzle_is_a_function_of_seed_and_index():
    spec = PuzzleSpec(2, depth=1, wording="plain")
    by_index = {puzzle.index: puzzle for puzzle in generate(spec, 5, 100)}
    assert max(by_index) > 100  # duplicates were skipped
    for puzzle in generate(spec, 5, 30, start=40):
        assert by_index.get(puzzle.index, puzzle) == puzzle
    assert [p.quiz for p in generate(spec, 6, 20)] != [p.quiz for p in generate(spec, 5, 20)]


def test_golden_hash_of_puzzles():
    text = "\n".join(repr(to_record(puzzle)) for spec in SPECS for puzzle in generate(spec, 0, 10))
    assert hashlib.blake2b(text.encode(), digest_size=8).hexdigest() == "e20e59dc290478c3"


@pytest.mark.parametrize("spec", SPECS)
def test_canonical_form_is_invariant_to_names_and_order(spec):
    rng = random.Random(0)
    forms = set()
    for puzzle in generate(spec, 1, 20):
        form = canonical(puzzle.statements)
        assert all(canonical(shuffled(puzzle.statements, rng)) == form for _ in range(4))
        forms.add(form)
    assert len(forms) == 20


def test_canonical_form_of_symmetric_puzzles():
    crowd = tuple(("lies", 0) for _ in range(12))  # 11 interchangeable people: no search over 11! orders
    assert canonical(crowd) == canonical((("lies", 5),) * 5 + (("lies", 5),) * 7)
    ring = tuple(("lies", (i + 1) % 6) for i in range(6))
    two_rings = tuple(("lies", i // 3 * 3 + (i + 1) % 3) for i in range(6))
    assert canonical(ring) != canonical(two_rings)
    assert canonical(ring) == canonical(shuffled(ring, random.Random(2)))
    one, other = ("implies", ("lies", 0), ("lies", 1)), ("implies", ("lies", 1), ("lies", 0))
    assert canonical((one, ("lies", 0))) != canonical((other, ("lies", 0)))


def test_all_canonical_forms_of_two_people_are_found():
    spec = PuzzleSpec(2, depth=1, wording="plain")
    assert len({canonical(p.statements) for p in generate(spec, 0, 164)}) == 164  # counted by enumeration
    with pytest.raises(ValueError, match="at most 164"):
        list(generate(spec, 0, 165))


def test_text_uniqueness_allows_more_puzzles_and_exclusion_is_by_form():
    spec = PuzzleSpec(2, depth=1, wording="plain", unique="text")
    test_split = {canonical(p.statements) for p in generate(PuzzleSpec(2, depth=1), 9, 40)}
    puzzles = list(generate(spec, 0, 400, exclude=test_split))
    assert len({p.quiz for p in puzzles}) == 400
    assert not test_split & {canonical(p.statements) for p in puzzles}


def test_the_split_is_a_function_of_the_canonical_form():
    shares = (("train", 0.8), ("test", 0.2), ("none", 0.0))
    forms = [canonical(p.statements) for p in generate(PuzzleSpec(3), 0, 1000)]
    splits = [split_of(form, 1, shares) for form in forms]
    assert 160 < splits.count("test") < 240 and splits.count("none") == 0
    assert splits == [split_of(form, 1, dict(shares)) for form in forms]
    assert splits != [split_of(form, 2, shares) for form in forms]


@pytest.mark.parametrize("kind", KINDS)
def test_a_perturbation_changes_only_its_own_part(kind):
    changed = 0
    for puzzle in generate(PuzzleSpec(3), 2, 30):
        try:
            other = perturb(puzzle, kind, seed=0)
        except ValueError:
            assert kind in ("leaf", "statement")
            continue
        changed += 1
        assert brute_force_solutions(other.statements) == [other.solution] and other.id != puzzle.id
        assert other == perturb(puzzle, kind, seed=0)
        if kind in ("leaf", "statement"):
            assert other.solution != puzzle.solution
            assert sum(a != b for a, b in zip(other.statements, puzzle.statements, strict=True)) == 1
        elif kind == "order":
            assert canonical(other.statements) == canonical(puzzle.statements)
            assert dict(other.people) == dict(puzzle.people) and other.names != puzzle.names
        else:
            assert (other.statements, other.solution) == (puzzle.statements, puzzle.solution)
            assert (set(other.names) & set(puzzle.names) == set()) == (kind == "names")
            assert (other.roles == puzzle.roles[::-1]) == (kind == "flip-roles")
    assert changed >= 20


def test_hardness_range_and_golden_values():
    assert hardness((("tells-truth", 1), ("and", ("lies", 0), ("tells-truth", 1)))) == 2
    assert hardness((("lies", 1), ("lies", 2), ("or", ("lies", 0), ("lies", 1)))) == 2
    assert all(6 <= p.hardness <= 8 for p in generate(PuzzleSpec(5, hardness=(6, 8)), 0, 10))


def test_operator_weights_at_the_top_level():
    spec = PuzzleSpec(4, depth=1, operators=(("lies", 3), ("and", 1)))
    sampler = PuzzleSampler(spec)
    sampler.uniform = random.Random(0).random
    tops = [sampler.statement()[0] for _ in range(2000)]
    assert set(tops) == {"lies", "and"} and 1400 < tops.count("lies") < 1600


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"people": 1}, "2 to 12 people"),
        ({"people": 3, "width": 4}, "number of people"),
        ({"people": 12, "width": 12, "depth": 4}, "depth of 2 or less"),
        ({"people": 3, "depth": 5}, "from 1 to 4"),
        ({"people": 3, "operators": (("lies", 1), ("not", 1))}, "and, or, implies, iff"),
        ({"people": 3, "operators": (("tells-truth", 1), ("or", 1))}, "lies, not, implies, iff"),
        ({"people": 3, "operators": (("xor", 1),)}, "out of"),
        ({"people": 2, "hardness": (8, 9)}, "even number from 2 to 6"),
        ({"people": 3, "hardness": (3, 3)}, "even number"),
    ],
)
def test_impossible_specifications_raise(fields, error):
    with pytest.raises(ValueError, match=error):
        PuzzleSpec(**fields)


def test_specifications_without_puzzles_raise_while_generating():
    with pytest.raises(ValueError, match="different puzzles"):
        generate(PuzzleSpec(2), 0, 100_000_000)
    with pytest.raises(ValueError, match="have only 2 to 4"):
        next(generate(PuzzleSpec(2, depth=1, hardness=(6, 6)), 0, 1))


def test_no_name_is_a_substring_of_another():
    assert len(set(NAMES)) >= 100 and len(set(PLAIN_NAMES)) == 12 and len(ROLE_WORDS) >= 7
    for names in (NAMES, PLAIN_NAMES):
        folded = [name.casefold() for name in names]
        assert not [(a, b) for a in folded for b in folded if a != b and a in b]
    assert all(n.isascii() and n.isalpha() and n.istitle() and 2 <= len(n) <= 6 for n in PLAIN_NAMES)


def test_records_round_trip_through_json_and_errors_have_line_numbers(tmp_path):
    path = tmp_path / "puzzles.jsonl"
    puzzles = list(generate(PuzzleSpec(4, depth=3), 0, 20))
    assert write_jsonl(path, map(to_record, puzzles)) == 20
    assert [from_record(record) for record in read_jsonl(path)] == puzzles
    path.write_text('{"a": 1}\n\n[1]\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 3"):
        list(read_jsonl(path))
    with pytest.raises(ZeroDivisionError):
        write_jsonl(path, ({"a": 1 // i} for i in (1, 0)))
    assert path.read_text(encoding="utf-8").startswith('{"a": 1}\n\n[1]') and len(list(tmp_path.iterdir())) == 1

"""Laws of the generator, checked against a brute-force solver that shares no code with it."""

import hashlib
import itertools
import random
from collections import Counter

import pytest

from data_gen.canonical import canonical, split_of
from data_gen.dataset import read_jsonl, write_jsonl
from data_gen.generate import generate
from data_gen.names import ENGLISH_NAMES, PLAIN_NAMES, ROLES
from data_gen.perturb import KINDS, perturb
from data_gen.puzzle import LEAVES, depth_of, from_record, to_record
from data_gen.puzzle_sampler import PuzzleSampler
from data_gen.solve import hardness, holds, persons_in, solutions
from data_gen.spec import PuzzleSpec, max_puzzles

pytestmark = pytest.mark.check

SPECS = (
    PuzzleSpec(2, depth=1),
    PuzzleSpec(3, depth=1, wording="plain"),
    PuzzleSpec(4, depth=2, width=3, wording="varied"),
    PuzzleSpec(5, depth=3, wording="varied", names="world"),
    PuzzleSpec(7, depth=2, wording="plain"),
    PuzzleSpec(9, depth=1, width=9, first_person=True),
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
    sampler = PuzzleSampler(PuzzleSpec(4, depth=2))
    sampler.uniform = random.Random(1).random
    for _ in range(100):
        statements = tuple(map(sampler.statement, range(4)))
        found = [tuple(bool(answer >> i & 1) for i in range(4)) for answer in solutions(statements)]
        assert sorted(found) == brute_force_solutions(statements)


def test_a_puzzle_is_a_function_of_seed_and_index():
    spec = PuzzleSpec(2, depth=1, wording="plain")
    by_index = {puzzle.index: puzzle for puzzle in generate(spec, 5, 100)}
    assert max(by_index) > 100  # duplicates were skipped
    for puzzle in generate(spec, 5, 30, start=40):
        assert by_index.get(puzzle.index, puzzle) == puzzle
    assert [p.quiz for p in generate(spec, 6, 20)] != [p.quiz for p in generate(spec, 5, 20)]


def digest_of(specs, count):
    texts = (repr((*puzzle[:6], puzzle.id)) for spec in specs for puzzle in generate(spec, 0, count))
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=8).hexdigest()


def test_golden_hash_of_puzzles():
    assert digest_of([spec for spec in SPECS if spec.wording != "plain"], 10) == "6f09846b256e55db"


def test_plain_puzzles_never_change():
    """The embedded model and its results depend on them."""
    tiny = {"tells-truth": 1.0, "lies": 1.0, "not": 0.25, "and": 1.0, "or": 1.0, "implies": 0.4, "iff": 0.4}
    specs = [PuzzleSpec(people, wording="plain", operators=tuple(tiny.items())) for people in (2, 3, 4, 5)]
    specs += [spec for spec in SPECS if spec.wording == "plain"]
    specs.append(PuzzleSpec(5, depth=3, width=3, wording="plain"))
    assert digest_of(specs, 60) == "e7bcfa1abcda0d0f"


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


@pytest.mark.parametrize(("wording", "forms"), [("plain", 164), ("classic", 156)])  # counted by enumeration
def test_all_canonical_forms_of_two_people_are_found(wording, forms):
    spec = PuzzleSpec(2, wording=wording)
    assert len({canonical(puzzle.statements) for puzzle in generate(spec, 0, forms)}) == forms
    with pytest.raises(ValueError, match=f"at most {forms},"):
        list(generate(spec, 0, forms + 1))


def test_the_error_counts_the_puzzles_that_are_kept():
    def is_kept(form):
        return split_of(form, 0, {"kept": 0.15, "other": 0.85}) == "kept"

    kept = {canonical(p.statements) for p in generate(PuzzleSpec(2), 0, 156) if is_kept(canonical(p.statements))}
    puzzles = list(generate(PuzzleSpec(2), 0, len(kept), keep=is_kept))
    assert {canonical(puzzle.statements) for puzzle in puzzles} == kept
    with pytest.raises(ValueError, match=f"found only {len(kept)} .* at most {len(kept)},"):
        list(generate(PuzzleSpec(2), 0, len(kept) + 1, keep=is_kept))


def test_the_bound_counts_names_and_role_words():
    def names_and_roles(wording):
        spec = PuzzleSpec(2, wording=wording, unique="text")
        statements = max_puzzles(PuzzleSpec(2, wording=wording))  # k (k + 1) / 2 pairs of statements
        number = next(k for k in itertools.count(1) if k * (k + 1) // 2 == statements)
        return max_puzzles(spec) // number**2

    english = len(ENGLISH_NAMES) * (len(ENGLISH_NAMES) - 1)
    assert names_and_roles("plain") == 12 * 11 == len(PLAIN_NAMES) * 11
    assert names_and_roles("classic") == english and names_and_roles("varied") == english * len(ROLES)


def operator_shares(puzzles):
    """The shares of operators over all statements, and of statements that mention their speaker."""
    kinds, own = Counter(), 0
    for puzzle in puzzles:
        for speaker, statement in enumerate(puzzle.statements):
            kinds["bare" if statement[0] in LEAVES else statement[0]] += 1
            own += speaker in persons_in(statement)
    return {kind: count / kinds.total() for kind, count in kinds.items()}, own / kinds.total()


@pytest.mark.parametrize("people", [3, 5, 8])
def test_statements_are_like_the_published_ones(people):
    """One operator at most, each about as frequent; a fifth of the statements mention their speaker."""
    puzzles = list(generate(PuzzleSpec(people), 0, 800))
    shares, own = operator_shares(puzzles)
    assert set(shares) == {"bare", "not", "and", "or", "implies", "iff"}
    assert all(0.13 < share < 0.21 for share in shares.values()) and 0.13 < shares["bare"] < 0.18, shares
    assert 0.15 < own < 0.25, own
    assert max(depth_of(statement) for puzzle in puzzles for statement in puzzle.statements) == 1
    liars = [p for p in puzzles for i, s in enumerate(p.statements) if ("lies", i) in (s, *s[1:])]
    assert liars == []


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
    tops = [sampler.statement(0)[0] for _ in range(2000)]
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
        ({"people": 3, "hardness": (4,)}, r"two integers such as \(4, 8\), got \(4,\)"),
        ({"people": 3, "hardness": (4, "x")}, "two integers"),
        ({"people": 3, "wording": "fancy"}, "classic, varied, plain"),
        ({"people": 3, "names": "klingon"}, "english, world"),
        ({"people": 3, "wording": "plain", "names": "world"}, "12 names"),
    ],
)
def test_impossible_specifications_raise(fields, error):
    with pytest.raises(ValueError, match=error):
        PuzzleSpec(**fields)


def test_specifications_without_puzzles_raise_while_generating():
    with pytest.raises(ValueError, match="different puzzles"):
        generate(PuzzleSpec(2, depth=2), 0, 100_000_000)
    with pytest.raises(ValueError, match="have only 2 to 4"):
        next(generate(PuzzleSpec(2, depth=1, hardness=(6, 6)), 0, 1))


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

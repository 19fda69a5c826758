"""The build command: the same seed gives the same bytes, files share no puzzle, errors are one sentence."""

import pytest

from data_gen.build import main
from data_gen.dataset import read_forms, read_puzzles
from data_gen.perturb import Writing, find_writing
from data_gen.spec import WORDINGS

pytestmark = pytest.mark.check


def build(path, *options):
    assert main([f"--output={path}", *options]) == 0
    return path.read_bytes()


def test_same_seed_same_bytes_and_statistics(tmp_path, capsys):
    flags = ("--people=4", "--count=50", "--depth=3", "--operators=lies=1,and=1,or=2,iff=1")
    first = build(tmp_path / "a.jsonl", *flags, "--seed=7")
    assert first == build(tmp_path / "b.jsonl", *flags, "--seed=7") != build(tmp_path / "c.jsonl", *flags, "--seed=8")
    shown = capsys.readouterr().out
    for words in ("puzzles per second", "at the top", "hardness: ", "acceptance: ", "constant answers: "):
        assert words in shown


def test_exclude_and_splits_share_no_form(tmp_path):
    small = ("--people=2", "--depth=1")
    build(tmp_path / "old.jsonl", *small, "--count=60", "--seed=1")
    assert main([*small, "--count=80", f"--exclude={tmp_path / 'old.jsonl'}", f"--output={tmp_path / 'new.jsonl'}",
          "--unique=text", "--splits=train=0.7,test=0.3"]) == 0  # fmt: skip
    forms = [read_forms([tmp_path / name]) for name in ("old.jsonl", "new.train.jsonl", "new.test.jsonl")]
    assert all(forms) and sum(map(len, forms)) == len(set().union(*forms))


def test_a_perturbed_file_keeps_the_wording(tmp_path):
    for wording in WORDINGS:
        build(tmp_path / "a.jsonl", "--people=3", "--count=20", f"--wording={wording}")
        build(tmp_path / "b.jsonl", "--perturb=flip-roles", f"--input={tmp_path / 'a.jsonl'}")
        pairs = list(zip(read_puzzles(tmp_path / "a.jsonl"), read_puzzles(tmp_path / "b.jsonl"), strict=True))
        assert all(a.roles == b.roles[::-1] and a.solution == b.solution for a, b in pairs)
        assert [find_writing(b) for _, b in pairs] == [Writing(wording)] * 20


def test_a_perturbed_file_is_written_again_where_a_wording_is_given(tmp_path):
    build(tmp_path / "a.jsonl", "--people=3", "--count=9", "--wording=plain")
    flags = ("--perturb=names", "--names=world", "--wording=classic")
    build(tmp_path / "b.jsonl", *flags, f"--input={tmp_path / 'a.jsonl'}")
    assert all(puzzle.quiz.startswith("You meet ") for puzzle in read_puzzles(tmp_path / "b.jsonl"))
    assert any(not name.isascii() for puzzle in read_puzzles(tmp_path / "b.jsonl") for name in puzzle.names)


def test_perturbed_puzzles_are_in_no_excluded_file(tmp_path):
    build(tmp_path / "all.jsonl", "--people=2", "--count=100")
    build(tmp_path / "some.jsonl", "--people=2", "--count=10")
    build(tmp_path / "twins.jsonl", "--perturb=leaf", f"--input={tmp_path / 'some.jsonl'}")
    assert read_forms([tmp_path / "twins.jsonl"]) & read_forms([tmp_path / "all.jsonl"])
    flags = ("--perturb=leaf", f"--input={tmp_path / 'some.jsonl'}", f"--exclude={tmp_path / 'all.jsonl'}")
    build(tmp_path / "twins.jsonl", *flags)
    assert not read_forms([tmp_path / "twins.jsonl"]) & read_forms([tmp_path / "all.jsonl"])


def test_flags_of_the_english(tmp_path):
    flags = ("--people=4", "--count=40", "--wording=varied", "--names=world", "--first-person")
    text = build(tmp_path / "a.jsonl", *flags).decode()
    assert " I " in text and not text.isascii()
    assert build(tmp_path / "b.jsonl", "--people=4", "--count=40").isascii()


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_file_is_converted_to_the_published_format(ending, tmp_path):
    build(tmp_path / "a.jsonl", "--people=3", "--count=5")
    out = tmp_path / f"b.{ending}"
    build(out, "--format=published", f"--input={tmp_path / 'a.jsonl'}")
    pairs = list(zip(read_puzzles(tmp_path / "a.jsonl"), read_puzzles(out), strict=True))
    assert len(pairs) == 5 and all(a.statements == b.statements and a.people == b.people for a, b in pairs)
    flags = ("--people=3", "--count=5", "--splits=train=1,test=1")
    assert main([f"--output={out}", "--format=published", *flags]) == 0
    assert {path.name for path in tmp_path.glob("b.t*")} == {f"b.train.{ending}", f"b.test.{ending}"}


@pytest.mark.parametrize(
    "options, words",
    [
        (["--people=1", "--count=5"], "2 to 12 people"),
        (["--people=2", "--count=100000000"], "different puzzles"),
        (
            ["--people=4", "--count=5", "--depth=1", "--operators=tells-truth=1,lies=1"],
            "and, or, implies, iff",
        ),
        (["--people=4", "--count=5", "--operators=and"], "NAME=NUMBER"),
        (["--people=4", "--count=5", "--hardness=x"], "LOW:HIGH"),
        (["--people=4", "--count=5", "--exclude", "missing.jsonl"], "a file of puzzles at missing.jsonl, found none"),
        (["--count=5"], "--people and --count"),
        (["--people=4", "--count=5", "--colour=red"], "--colour"),
        (["--input=missing.parquet"], "a file of puzzles at missing.parquet, found none"),
        (["--perturb=leaf"], "--input=FILE"),
        (["--perturb=leaf", "--input=x.jsonl", "--people=3"], "no --people beside --perturb"),
        (["--perturb=leaf", "--input=x.jsonl", "--count=3"], "no --count beside --perturb"),
        (["--perturb=leaf", "--input=x.jsonl", "--names=world"], "--perturb=names"),
        (["--perturb=leaf", "--input=x.jsonl", "--first-person"], "beside --wording"),
        (["--input=x.jsonl", "--wording=plain"], "no --wording beside --input"),
        (["--input=x.jsonl", "--depth=2"], "no --depth beside --input"),
        (["--input=x.jsonl", "--seed=2"], "no --seed beside --input"),
        (["--input=x.jsonl", "--no-first-person"], "no --first-person beside --input"),
        (["--input=x.parquet", "--format=puzzles"], "x.parquet"),
    ],
)
def test_errors_are_one_sentence_and_nothing_is_written(options, words, tmp_path, capsys):
    assert main([f"--output={tmp_path / 'a.jsonl'}", *options]) == 2
    message = capsys.readouterr().err
    assert words in message and message.startswith("data_gen.build: ") and message.count("\n") == 1
    assert not list(tmp_path.iterdir())

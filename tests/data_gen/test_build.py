"""The build command: the same seed gives the same bytes, files share no puzzle, errors are one sentence."""

import pytest

from data_gen.build import main
from data_gen.dataset import read_forms, read_puzzles

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


def test_perturbed_file(tmp_path):
    build(tmp_path / "a.jsonl", "--people=3", "--count=20")
    build(tmp_path / "b.jsonl", "--perturb=flip-roles", f"--input={tmp_path / 'a.jsonl'}")
    pairs = zip(read_puzzles(tmp_path / "a.jsonl"), read_puzzles(tmp_path / "b.jsonl"), strict=True)
    assert all(a.roles == b.roles[::-1] and a.solution == b.solution for a, b in pairs)


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
        (["--people=4", "--count=5", "--exclude", "missing.jsonl"], "missing.jsonl"),
        (["--count=5"], "--people and --count"),
        (["--people=4", "--count=5", "--colour=red"], "--colour"),
    ],
)
def test_errors_are_one_sentence_and_nothing_is_written(options, words, tmp_path, capsys):
    assert main([f"--output={tmp_path / 'a.jsonl'}", *options]) == 2
    message = capsys.readouterr().err
    assert words in message and message.startswith("data_gen.build: ") and message.count("\n") == 1
    assert not list(tmp_path.iterdir())

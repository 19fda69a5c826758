"""Puzzle files: what is written is read, in both formats; what is read is solved; damage has a file and a line."""

import json
import re
import sys

import pytest

from data_gen.dataset import check_writable, read_lines, read_puzzles, write_puzzles
from data_gen.generate import generate
from data_gen.perturb import KINDS, find_writing, perturb
from data_gen.prompts import question_text
from data_gen.published_format import COLUMNS, from_published, to_published
from data_gen.puzzle import to_record
from data_gen.spec import PuzzleSpec

pytestmark = pytest.mark.check

SPECS = [
    PuzzleSpec(3),
    PuzzleSpec(5, depth=3, width=3, wording="varied", names="world"),
    PuzzleSpec(2, wording="plain"),
]

# A row in the published data set's format, in that set's phrasings; the sentences are our own.
ROW = {
    "quiz": "This is a very special island with egoists and altruists. Altruists always tell the truth, and egoists "
    'always lie. You meet 3 inhabitants: Mia, Leo, and Ada. Mia said: "Leo is an egoist or Ada is an egoist". "If Leo '
    'is an altruist then Ada is an altruist," Leo noted. In the words of Ada, "Mia is an egoist and Leo is not an '
    'egoist". So who is an altruist and who is an egoist?',
    "names": ["Mia", "Leo", "Ada"],
    "knight_knave": {"knight": "altruist", "a_knight": "an altruist", "knave": "egoist", "a_knave": "an egoist"},
    "solution": [False, True, True],
    "solution_text": "Mia is an egoist, Leo is an altruist, and Ada is an altruist.",
    "statements": "(('or', ('lying', 1), ('lying', 2)), ('->', ('telling-truth', 1), ('telling-truth', 2)), "
    "('and', ('lying', 0), ('not', ('lying', 1))))",
    "index": 7,
    "cot_head": "Let us begin.",
}


def lines(path, *records):
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_puzzles_round_trip_through_the_published_format(spec, name, tmp_path):
    puzzles = list(generate(spec, 3, 20))
    write_puzzles(tmp_path / name, puzzles, "published")
    read = list(read_puzzles(tmp_path / name))
    for before, after in zip(puzzles, read, strict=True):
        asked = question_text(before, "chat")
        assert after == before._replace(quiz=asked, seed=0, standalone=True)
        assert question_text(after, "chat") == asked  # the setting is not added twice
    write_puzzles(tmp_path / f"again_{name}", read, "published")
    assert list(read_puzzles(tmp_path / f"again_{name}")) == read
    write_puzzles(tmp_path / "ours.jsonl", read)
    assert list(read_puzzles(tmp_path / "ours.jsonl")) == read


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_other_programs_load_the_published_format(name, tmp_path):
    """By Hugging Face datasets if it is installed, and by pyarrow; the columns have one type each."""
    puzzles = list(generate(SPECS[0], 3, 20))
    write_puzzles(tmp_path / name, puzzles, "published")
    expected = [to_published(puzzle) for puzzle in puzzles]
    assert tuple(expected[0]) == COLUMNS
    try:
        import datasets
    except ImportError:
        from pyarrow import json as arrow_json
        from pyarrow import parquet

        path = str(tmp_path / name)
        loaded = (parquet.read_table if name.endswith("parquet") else arrow_json.read_json)(path).to_pylist()
    else:
        builder = name.rpartition(".")[2].replace("jsonl", "json")
        loaded = datasets.load_dataset(
            builder, data_files=str(tmp_path / name), split="train", cache_dir=str(tmp_path / "cache")
        ).to_list()
    assert loaded == expected


def test_a_row_of_another_program_is_read():
    puzzle = from_published(ROW)
    assert puzzle.people == (("Mia", "egoist"), ("Leo", "altruist"), ("Ada", "altruist"))
    assert puzzle.statements[1] == ("implies", ("tells-truth", 1), ("tells-truth", 2))
    assert puzzle.solution_text == ROW["solution_text"]
    assert to_published(puzzle) | {"cot_head": ROW["cot_head"]} == ROW | {"knight_knave": ROW["knight_knave"] | {
        "Knight": "Altruist", "Knave": "Egoist"}}  # fmt: skip


def test_the_text_of_another_program_changes_only_where_it_is_perturbed():
    puzzle = from_published(ROW)
    assert find_writing(puzzle) is None
    twins = {kind: perturb(puzzle, kind, seed=0) for kind in KINDS}
    assert twins["flip-roles"].quiz.startswith(
        "This is a very special island with altruists and egoists. Egoists always"
    )
    assert '"If Leo is an egoist then Ada is an egoist," Leo noted.' in twins["flip-roles"].quiz
    assert "an altruist" not in twins["role-words"].quiz and "Altruists" not in twins["role-words"].quiz
    words = dict(zip(puzzle.names, twins["names"].names, strict=True))
    assert twins["names"].quiz == " ".join(
        "".join(words.get(part, part) for part in _parts(word, words)) for word in puzzle.quiz.split(" ")
    )
    for kind in ("statement", "leaf"):
        before, after = (text.split(". ") for text in (puzzle.quiz, twins[kind].quiz))
        assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
        assert re.findall(r"[^\w\s]", twins[kind].quiz) == re.findall(r"[^\w\s]", puzzle.quiz)
        assert perturb(twins[kind], "order", 0).quiz  # every statement is found again
    assert sorted(twins["order"].quiz.split(". ")) != twins["order"].quiz.split(". ")
    assert set(twins["order"].quiz) == set(puzzle.quiz) and twins["order"].quiz != puzzle.quiz
    assert all(twin.standalone for twin in twins.values())


def _parts(word, names):
    for name in names:
        if name in word:
            before, _, after = word.partition(name)
            return before, name, after
    return (word,)


def test_a_text_in_another_order_than_the_names_is_never_left_as_it_is():
    puzzle = from_published(ROW)
    reordered = puzzle._replace(quiz=perturb(puzzle, "order", 0).quiz)  # the names keep their order
    refused = 0
    for seed in range(20):
        try:
            assert perturb(reordered, "order", seed).quiz != reordered.quiz
        except ValueError as error:
            refused += "expected another order" in str(error)
    assert 0 < refused < 20


def test_a_text_without_the_statements_in_known_phrasings_is_not_edited():
    puzzle = from_published(
        ROW | {"quiz": ROW["quiz"].replace("Leo is an egoist or Ada", "Leo may be an egoist or Ada")}
    )
    assert "Leo may be an altruist or" in perturb(puzzle, "flip-roles", 0).quiz
    for kind in ("statement", "leaf", "order"):
        with pytest.raises(ValueError, match="that of Mia is not found"):
            perturb(puzzle, kind, 0)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"solution": [True, True, True], "solution_text": None}, "expected the solution that the statements have"),
        (
            {"solution_text": ROW["solution_text"].replace("Leo is an altruist", "Leo is an egoist")},
            "Leo is an altruist",
        ),
        ({"solution_text": "Mia is an egoist."}, "says once that Leo"),
        ({"statements": "(('lying', 1), ('lying', 0), ('telling-truth', 2))"}, "exactly one solution, got 4"),
        ({"statements": "(('xor', ('lying', 1), ('lying', 0)),) * 3"}, "text of a Python tuple"),
        ({"statements": "(('xor', ('lying', 1), ('lying', 0)), ('lying', 1), ('lying', 1))"}, "can't express"),
        ({"statements": "(('lying', 3), ('lying', 1), ('lying', 1))"}, "person from 0 to 2"),
        ({"statements": "(('and', ('lying', 0)), ('lying', 1), ('lying', 1))"}, "2 or more for and/or"),
        ({"statements": "__import__('os').getcwd()"}, "text of a Python tuple"),
        ({"statements": "(" * 5000}, "text of a Python tuple"),
        ({"statements": "(('lying', 1), ('lying', 0))"}, "tuple of 3"),
        ({"names": ["Mia", "Leo", "Leo"], "solution_text": None}, "different names"),
        ({"names": ["Mia", "Leo", "Eve"], "solution_text": None}, "found no 'Eve'"),
        ({"names": ["Mia"]}, "2 to 12 names"),
        ({"names": "Mia"}, "list of texts"),
        ({"solution": [0, 1, 1]}, "3 booleans"),
        ({"knight_knave": {"knight": "altruist"}}, "knight_knave"),
        ({"knight_knave": {"knight": "egoist", "knave": "egoist"}, "solution_text": None}, "two different role words"),
        ({"quiz": None}, "missing: quiz"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(change, error, tmp_path):
    path = lines(tmp_path / "a.jsonl", ROW, ROW | change)
    with pytest.raises(ValueError, match=rf"a\.jsonl, line 2: .*{error}"):
        list(read_puzzles(path))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"people": [["Mia", "knight"]] * 3}, "n_people=2"),
        ({"statements": [["lies", 1], ["lies", 0]], "solution_text": None}, "exactly one solution, got 2"),
        ({"solution_text": "Nobody knows."}, "expected a solution_text that says once that"),
        ({"index": "7"}, "index to be of type int"),
        ({"roles": 5}, "int"),
    ],
)
def test_a_bad_puzzle_in_our_own_format_is_refused_with_its_line(change, error, tmp_path):
    record = to_record(next(generate(PuzzleSpec(2), 0, 1)))
    path = lines(tmp_path / "a.jsonl", record, record | change)
    with pytest.raises(ValueError, match=rf"a\.jsonl, line 2: .*{error}"):
        list(read_puzzles(path))


def test_files_of_earlier_versions_have_no_solution_text(tmp_path):
    puzzles = list(generate(PuzzleSpec(3), 0, 3))
    records = [to_record(puzzle) for puzzle in puzzles]
    assert records[0]["solution_text"] == puzzles[0].solution_text
    for record in records:
        del record["solution_text"]
    assert list(read_puzzles(lines(tmp_path / "a.jsonl", *records))) == puzzles


def test_a_byte_order_mark_and_blank_lines_are_skipped(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": "\xef\xbb\xbf"}')
    assert list(read_lines(path)) == [(1, {"a": 1}), (3, {"a": "\ufeff"})]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ('{"a": 1}\n{"a": "é"}\n'.encode("latin-1"), "line 2: expected UTF-8, got the byte 0xE9 at position 8"),
        ('{"a": 1}\n'.encode("utf-16"), "line 1: expected UTF-8, got the byte 0xFF at position 1"),
        (b'{"a": 1}\n[1]\n', r"line 2: expected one JSON object, got '\[1\]'"),
        (b"[" * 100_000, "line 1: expected one JSON object"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(content, error, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.jsonl, {error}"):
        list(read_lines(path))


def test_parquet_has_the_published_format_only_and_needs_pyarrow(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match='"published"'):
        check_writable("a.parquet", "puzzles")
    (tmp_path / "b.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"b\.parquet: expected a parquet file"):
        list(read_puzzles(tmp_path / "b.parquet"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for check in (lambda: check_writable("a.parquet", "published"), lambda: list(read_puzzles(tmp_path / "b.parquet"))):
        with pytest.raises(ValueError, match=r"pip install 'jaxrl\[parquet\]'"):
            check()

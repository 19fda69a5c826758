"""A file of completions: an incomplete end is repaired, and a file of another command is not changed."""

import json

import pytest

from jaxrl.inference.completions_file import CompletionFile, prompts_hash

IDS, SAMPLES = ["ä", 2, "2b"], 2
SETTINGS = {"model": "M", "samples": SAMPLES, "temperature": 0.5, "stop": ["</a>"]}


def record(index):
    return {
        "id": IDS[index // SAMPLES],
        "sample": index % SAMPLES,
        "text": f'"ü\n{index}',
        "tokens": [1, 2],
        "logp": [-0.5, -1.0],
        "finish": "stop",
    }


def line(index, **changes):
    return json.dumps(record(index) | changes, ensure_ascii=False).encode() + b"\n"


COMPLETE = b"".join(line(index) for index in range(len(IDS) * SAMPLES))


@pytest.fixture
def path(tmp_path):
    CompletionFile(tmp_path / "out.jsonl", IDS, SAMPLES, SETTINGS).begin()
    return tmp_path / "out.jsonl"


def opened(path, **changes):
    return CompletionFile(path, IDS, SAMPLES, SETTINGS | changes)


def test_a_file_that_ends_anywhere_is_resumed(path):
    """Complete lines are kept, even those of a prompt with missing samples."""
    for end in range(len(COMPLETE) + 1):
        path.write_bytes(COMPLETE[:end])
        file = opened(path)
        assert path.read_bytes() == COMPLETE[:end]  # opening only reads
        assert file.lines == COMPLETE[:end].count(b"\n")
        file.begin()
        assert path.read_bytes() == COMPLETE[: COMPLETE[:end].rfind(b"\n") + 1]
        file.add([record(index) for index in range(file.lines, len(IDS) * SAMPLES)])
        assert path.read_bytes() == COMPLETE and file.lines == len(IDS) * SAMPLES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"thesis": 1}\n' * 3, "line 1: expected sample 0 of prompt 'ä', got"),
        (line(0) + b'{"thesis": 1}\n', "line 2: expected sample 1 of prompt 'ä', got"),
        (line(0) + b"\n", "line 2: expected"),
        (line(0) + line(2), "line 2: expected"),
        (line(0) + line(1) + line(2, id="2"), "line 3: expected sample 0 of prompt 2, got"),
        (line(0, tokens=[1]), "line 1: expected"),
        (line(0, finish="no"), "line 1: expected"),
        (line(0, note="mine"), "line 1: expected"),
        (b"[1]\n", "line 1: expected"),
        (b"\xff\xfe\n", "line 1: expected"),
        (COMPLETE + line(0), "line 7: expected no further line, as all are written"),
        (b"notes without an end", "ends, after line 0, in the incomplete line b'notes"),
        (line(0) + b"notes", "ends, after line 1, in the incomplete line b'notes"),
        (line(0) + line(2)[:-9], "ends, after line 1, in"),
        (line(0, note="mine")[:-1], "ends, after line 0, in"),
        (COMPLETE + b"{", "ends, after line 6, in"),
    ],
)
def test_other_contents_are_refused_and_kept(path, content, message):
    path.write_bytes(content)
    with pytest.raises(ValueError) as refused:
        opened(path)
    assert message in str(refused.value) and "choose another --output" in str(refused.value)
    assert path.read_bytes() == content


def test_lines_without_settings_are_refused(path):
    path.with_name("out.jsonl.settings.json").unlink()
    path.write_bytes(COMPLETE)
    with pytest.raises(ValueError, match=r"not empty, but its settings file out\.jsonl\.settings\.json is missing"):
        opened(path)


def test_other_settings_are_refused_by_name(path):
    path.write_bytes(line(0))
    with pytest.raises(
        ValueError, match=r"temperature \(stored 0\.5, now 1\.0\), stop \(stored \['</a>'\], now \[\]\);"
    ):
        opened(path, temperature=1.0, stop=[])
    path.write_bytes(b"")
    opened(path, temperature=1.0).begin()  # there are no completions with the old ones
    assert json.loads(path.with_name("out.jsonl.settings.json").read_text()) == SETTINGS | {"temperature": 1.0}


@pytest.mark.parametrize("content", ['{"thesis": 1}', "[]", "thesis"])
def test_other_settings_files_are_refused(path, content):
    beside = path.with_name("out.jsonl.settings.json")
    beside.write_text(content)
    with pytest.raises(ValueError, match=r"does not have this command's settings \(model, samples, temp"):
        opened(path)
    assert beside.read_text() == content


def test_the_hash_depends_on_order_ids_and_tokens():
    prompts = [("a", [1, 2]), ("b", [3])]
    others = (prompts[::-1], [("a", [1]), ("b", [2, 3])], [("a", [1, 2]), ("c", [3])], prompts[:1], [(1, [1])])
    hashes = [prompts_hash(each) for each in (prompts, *others, [("1", [1])])]
    assert len(set(hashes)) == len(hashes) and prompts_hash(tuple(prompts)) == hashes[0]

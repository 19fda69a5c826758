"""A file of completions: a torn end is mended, what was not written by the same command is left alone."""

import json

import pytest

from jaxrl.inference.completions_file import CompletionFile, prompts_hash

IDS, SAMPLES = ["ä", 2, "2b"], 2
SETTINGS = {"model": "M", "samples": SAMPLES, "temperature": 0.5, "stop": ["</a>"]}


def record(place):
    return {
        "id": IDS[place // SAMPLES],
        "sample": place % SAMPLES,
        "text": f'"ü\n{place}',
        "tokens": [1, 2],
        "logp": [-0.5, -1.0],
        "finish": "stop",
    }


def line(place, **changes):
    return json.dumps(record(place) | changes, ensure_ascii=False).encode() + b"\n"


WHOLE = b"".join(line(place) for place in range(len(IDS) * SAMPLES))


@pytest.fixture
def path(tmp_path):
    CompletionFile(tmp_path / "out.jsonl", IDS, SAMPLES, SETTINGS).begin()
    return tmp_path / "out.jsonl"


def opened(path, **changes):
    return CompletionFile(path, IDS, SAMPLES, SETTINGS | changes)


def test_a_file_torn_anywhere_is_gone_on_with(path):
    """Whole lines stay, even those of a prompt whose samples are not all there."""
    for cut in range(len(WHOLE) + 1):
        path.write_bytes(WHOLE[:cut])
        file = opened(path)
        assert path.read_bytes() == WHOLE[:cut]  # opening only reads
        assert file.lines == WHOLE[:cut].count(b"\n")
        file.begin()
        assert path.read_bytes() == WHOLE[: WHOLE[:cut].rfind(b"\n") + 1]
        file.add([record(place) for place in range(file.lines, len(IDS) * SAMPLES)])
        assert path.read_bytes() == WHOLE and file.lines == len(IDS) * SAMPLES


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"thesis": 1}\n' * 3, "line 1, is not sample 0 of prompt 'ä'"),
        (line(0) + b'{"thesis": 1}\n', "line 2, is not sample 1 of prompt 'ä'"),
        (line(0) + b"\n", "line 2, is not"),
        (line(0) + line(2), "line 2, is not"),
        (line(0) + line(1) + line(2, id="2"), "line 3, is not sample 0 of prompt 2"),
        (line(0, tokens=[1]), "line 1, is not"),
        (line(0, finish="no"), "line 1, is not"),
        (line(0, note="mine"), "line 1, is not"),
        (b"[1]\n", "line 1, is not"),
        (b"\xff\xfe\n", "line 1, is not"),
        (WHOLE + line(0), "line 7, is not one of this command's, which are all there"),
        (b"notes without an end", "ends, after line 0, in b'notes"),
        (line(0) + b"notes", "ends, after line 1, in b'notes"),
        (line(0) + line(2)[:-9], "ends, after line 1, in"),
        (line(0, note="mine")[:-1], "ends, after line 0, in"),
        (WHOLE + b"{", "ends, after line 6, in"),
    ],
)
def test_what_is_of_something_else_is_refused_and_stays(path, content, said):
    path.write_bytes(content)
    with pytest.raises(ValueError) as refused:
        opened(path)
    assert said in str(refused.value) and "choose another --output" in str(refused.value)
    assert path.read_bytes() == content


def test_lines_without_settings_are_refused(path):
    path.with_name("out.jsonl.settings.json").unlink()
    path.write_bytes(WHOLE)
    with pytest.raises(ValueError, match=r"not empty, and there is no out\.jsonl\.settings\.json"):
        opened(path)


def test_other_settings_are_refused_by_name(path):
    path.write_bytes(line(0))
    with pytest.raises(ValueError, match=r"temperature \(there 0\.5, now 1\.0\), stop \(there \['</a>'\], now \[\]\);"):
        opened(path, temperature=1.0, stop=[])
    path.write_bytes(b"")
    opened(path, temperature=1.0).begin()  # nothing was drawn with the old ones
    assert json.loads(path.with_name("out.jsonl.settings.json").read_text()) == SETTINGS | {"temperature": 1.0}


@pytest.mark.parametrize("content", ['{"thesis": 1}', "[]", "thesis"])
def test_settings_of_something_else_are_refused(path, content):
    beside = path.with_name("out.jsonl.settings.json")
    beside.write_text(content)
    with pytest.raises(ValueError, match=r"is not a file of this command's settings \(model, samples, temp"):
        opened(path)
    assert beside.read_text() == content


def test_the_hash_knows_order_ids_and_tokens():
    prompts = [("a", [1, 2]), ("b", [3])]
    others = (prompts[::-1], [("a", [1]), ("b", [2, 3])], [("a", [1, 2]), ("c", [3])], prompts[:1], [(1, [1])])
    hashes = [prompts_hash(each) for each in (prompts, *others, [("1", [1])])]
    assert len(set(hashes)) == len(hashes) and prompts_hash(tuple(prompts)) == hashes[0]

"""`jaxrl.score` adds the verdict to each line and reports lines that it can't score."""

import gzip
import json

import pytest

from jaxrl.score import main

pytestmark = pytest.mark.check

GOOD = {
    "id": "a",
    "quiz": "Ann says: Bob is a knave. Bob says: Ann is a knave and Bob is a knave.",
    "people": [["Ann", "knight"], ["Bob", "knave"]],
    "roles": ["knight", "knave"],
    "prompt_opens_think": True,
    "extra": {"kept": [1, "é"]},
    "response": "Bob can't truthfully call himself a liar, so Ann is right.</think>"
    "<answer>Ann is a knight, Bob is a knave.</answer>",
}


def run(folder, lines, *more, name="in.jsonl"):
    source, target = folder / name, folder / "out.jsonl"
    data = b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
    source.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    status = main([f"--input={source}", f"--output={target}", *more])
    return status, [
        json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()
    ] if target.exists() else None


def test_lines_keep_their_fields_and_gain_the_verdict(tmp_path, capsys):
    truncated = GOOD | {"id": "b", "truncated": True}
    status, scored = run(tmp_path, [GOOD, b"\n", truncated])
    assert status == 0
    assert {key: scored[0][key] for key in GOOD} == GOOD
    gained = {
        "verdict": "correct",
        "reasons": [],
        "format_reward": 1.0,
        "answer_reward": 2.0,
        "reward": 3.0,
        "rule": "strict-2",
    }
    assert gained.items() <= scored[0].items()
    assert scored[1]["verdict"] == "bad_format"
    assert scored[1]["suspects"] == ["truncated"]
    table = capsys.readouterr().out
    assert "2 responses scored, 0 lines" in table
    assert "truncated" in table


BAD = [
    b"{not json\n",
    b"\xff\xfe\n",
    b"[1, 2]\n",
    b"[" * 100_000 + b"\n",
    {**GOOD, "people": [["Ann"]]},
    {**GOOD, "roles": ["knight"]},
    {**GOOD, "people": [["Ann", "wizard"]]},
    {**GOOD, "prompt_opens_think": "yes"},
    {key: GOOD[key] for key in GOOD if key != "response"},
]


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_line_is_reported_by_number_and_the_others_are_scored(tmp_path, capsys, bad):
    status, scored = run(tmp_path, [GOOD, bad, GOOD])
    assert status == 1
    assert [record["verdict"] for record in scored] == ["correct", "correct"]
    message = capsys.readouterr().err
    assert "line 2: " in message and message.count("\n") == 1


def test_a_byte_order_mark_is_skipped(tmp_path):
    status, scored = run(tmp_path, [b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\n", GOOD])
    assert (status, [record["verdict"] for record in scored]) == (0, ["correct", "correct"])


def test_lone_surrogates_and_compressed_files(tmp_path):
    status, scored = run(tmp_path, [GOOD | {"response": "\ud800"}], name="in.jsonl.gz")
    assert status == 0
    assert scored[0]["response"] == "\ud800"
    assert scored[0]["verdict"] == "bad_format"


def test_other_rules_and_values(tmp_path):
    status, scored = run(tmp_path, [GOOD], "--rule=answer-only-2", "--answer_right=5")
    assert (status, scored[0]["reward"], scored[0]["rule"]) == (0, 5.0, "answer-only-2")
    numbers = {
        "response": "six times twelve boxes gives 72</think><answer>72</answer>",
        "prompt_opens_think": True,
        "answer": "#### 72",
    }
    status, scored = run(tmp_path, [numbers], "--rule=gsm8k-1")
    assert (status, scored[0]["verdict"]) == (0, "correct")


@pytest.mark.parametrize("target", ["#### 10,20", "#### 3:45", "many"])
def test_a_target_that_the_rule_cannot_judge_by_is_reported_by_line(tmp_path, capsys, target):
    good = {"quiz": "", "response": "72", "prompt_opens_think": False, "target": "#### 1,00,000"}
    status, scored = run(tmp_path, [good, good | {"target": target}, good | {"target": "#### １８"}], "--rule=gsm8k-2")
    assert status == 1
    assert len(scored) == 2
    message = capsys.readouterr().err
    assert "in.jsonl, line 2: rule gsm8k-2 can't judge by the target" in message and message.count("\n") == 1


def test_errors_are_one_sentence_and_nothing_is_written(tmp_path, capsys):
    missing = tmp_path / "missing.jsonl"
    assert main([f"--input={missing}", f"--output={tmp_path / 'out.jsonl'}"]) == 2
    assert str(missing) in capsys.readouterr().err
    missing.write_text("{}\n")
    assert main([f"--input={missing}", f"--output={missing}"]) == 2
    assert "same file" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["missing.jsonl"]

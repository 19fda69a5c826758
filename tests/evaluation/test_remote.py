"""Concurrent requests: order of the responses, the answer log, resumption, and token counts."""

import dataclasses
import json
import threading

import pytest

from jaxrl.evaluation.answer_log import AnswerLog
from jaxrl.evaluation.endpoint import Endpoint
from jaxrl.evaluation.remote import RemoteEvaluationSpec, evaluate_endpoint
from jaxrl.evaluation.results import markdown, rows
from jaxrl.rewards import Verdict
from jaxrl.tasks.problem import Problem

PROBLEMS = [Problem(f"id{n}", "p3", f"Q{n}", "", "", False, (), n) for n in range(6)]
SPEC = RemoteEvaluationSpec(samples=2, temperature=0.7, max_new_tokens=9, seed=5, concurrency=4)


def judge(problem, response, truncated):
    right = response.split()[0] == problem.question and not truncated
    return Verdict("correct" if right else "wrong_answer", (), 1.0, 1.0, 2.0, "rule-1", ())


def completion(body, finish="stop"):
    text = f"{body['messages'][0]['content']} {body['temperature']} {body.get('seed')}"
    usage = {"prompt_tokens": 10, "completion_tokens": 4}
    return 200, {}, json.dumps({"choices": [{"message": {"content": text}, "finish_reason": finish}], "usage": usage})


def measure(server, path, spec=SPEC, problems=PROBLEMS, printed=None, retries=0):
    endpoint = Endpoint(server.url, "m", retries=retries)
    with AnswerLog(path, spec.settings(endpoint)) as log:
        return evaluate_endpoint(
            endpoint,
            problems,
            spec,
            log,
            judge=judge,
            messages=lambda problem: [{"role": "user", "content": problem.question}],
            print_fn=([] if printed is None else printed).append,
        )


def test_responses_match_their_prompts_in_any_order_of_arrival(serve, tmp_path):
    gate = threading.Barrier(4, timeout=20)  # four simultaneous requests; none completes before all have arrived

    def respond(body, number):
        if number < 4:
            gate.wait()
        return completion(body)

    result = measure(server := serve(respond), tmp_path / "a.jsonl")
    assert [item.problem for item in result.items] == [problem.id for problem in PROBLEMS]
    assert all(item.greedy[0].response == f"{item.question} 0.0 None" for item in result.items)
    assert all(item.sampled[0].response.startswith(f"{item.question} 0.7 ") for item in result.items)
    seeds = [body["seed"] for _, body in server.requests if "seed" in body]
    assert len(set(seeds)) == len(seeds) == 12  # a different seed for each sample
    assert {row.mode: row.accuracy.value for row in rows(result)} == {"greedy": 1.0, "sampled": 1.0}
    assert rows(result)[0].mean_tokens == 4
    assert (result.settings["prompt_tokens"], result.settings["completion_tokens"]) == (180, 72)
    assert "cost: 180 prompt tokens and 72 completion tokens" in markdown(result)
    assert (result.model, result.settings["name"]) == (f"m at {server.url}", "m")


def test_interrupted_evaluation_requests_only_missing_responses(serve, tmp_path):
    path, broken = tmp_path / "deep" / "a.jsonl", True
    server = serve(lambda body, number: (400, {}, "enough") if broken and number >= 7 else completion(body))
    with pytest.raises(ValueError, match="enough"):
        measure(server, path, dataclasses.replace(SPEC, concurrency=2))
    kept = path.read_bytes()
    assert len(kept.splitlines()) == 1 + 7  # the settings and each received response
    path.write_bytes(kept[:-9])  # the incomplete line of a killed process
    broken, printed = False, []
    server.requests.clear()
    result = measure(server, path, printed=printed)
    assert len(server.requests) == 18 - 6 and printed[0].startswith("6 of 18 responses are already in")
    assert path.read_bytes().startswith(kept[: kept[:-9].rfind(b"\n") + 1])
    assert result == measure(server, path) and len(server.requests) == 12  # nothing is requested twice
    assert result.items == measure(server, tmp_path / "complete.jsonl").items
    problems = [*PROBLEMS, PROBLEMS[0]._replace(question="Q6")]
    more = measure(server, path, dataclasses.replace(SPEC, samples=3), problems)
    assert len(server.requests) == 12 + 18 + 6 + 4  # a third sample of six prompts, and all samples of a new one
    assert more.items[0].sampled[:2] == result.items[0].sampled


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.8}, "requested with temperature 0.7, but this command uses 0.8"),
        ({"max_new_tokens": 10}, "max_new_tokens 9"),
        ({"seed": 6}, "seed 5"),
    ],
)
def test_log_with_other_settings_is_an_error_that_names_them(serve, tmp_path, change, message):
    server, path = serve(lambda body, number: completion(body)), tmp_path / "a.jsonl"
    measure(server, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        measure(server, path, dataclasses.replace(SPEC, **change))
    assert path.read_bytes() == before and len(server.requests) == 18


@pytest.mark.parametrize("content", ["my thesis", '{"thesis": 1}\n', "[]\n", "", '{"settings": '])
def test_other_file_is_not_changed(serve, tmp_path, content):
    server, path = serve(lambda body, number: completion(body)), tmp_path / "a.jsonl"
    path.write_text(content)
    if "settings" in content or not content:  # what a process leaves that was killed at its first write
        assert len(measure(server, path).items) == 6
        return
    with pytest.raises(ValueError, match="line 1: expected a response"):
        measure(server, path)
    assert path.read_text() == content and not server.requests


def test_error_names_a_damaged_line(serve, tmp_path):
    server, path = serve(lambda body, number: completion(body)), tmp_path / "a.jsonl"
    measure(server, path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b'{"prompt_hash": 1}\n', *lines[4:]]))
    with pytest.raises(ValueError, match="line 4: expected a response"):
        measure(server, path)


def test_truncated_responses_and_evaluation_without_greedy_decoding(serve, tmp_path):
    server = serve(lambda body, number: completion(body, "length"))
    result = measure(server, tmp_path / "a.jsonl", dataclasses.replace(SPEC, greedy=False))
    (row,) = rows(result)
    assert (row.mode, row.truncated, row.accuracy.value) == ("sampled", 1.0, 0.0)
    assert len(server.requests) == 12
    with pytest.raises(ValueError, match="concurrency of 1 or more"):
        dataclasses.replace(SPEC, concurrency=0)


def test_waiting_requests_are_cancelled_when_another_one_fails(serve, tmp_path):
    def respond(body, number):
        return (429, {"Retry-After": "599"}, "") if body["temperature"] else (400, {}, "no")

    with pytest.raises(ValueError, match="refused"):
        measure(serve(respond), tmp_path / "a.jsonl", SPEC, PROBLEMS[:2], retries=3)

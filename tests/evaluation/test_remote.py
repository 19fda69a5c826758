"""Many requests at a time: the order of answers, what is kept and asked again, and what a result says it cost."""

import dataclasses
import json
import threading

import pytest

from jaxrl.evaluation.answer_log import AnswerLog
from jaxrl.evaluation.endpoint import Endpoint
from jaxrl.evaluation.remote import Asking, evaluate_endpoint
from jaxrl.evaluation.results import markdown, rows
from jaxrl.rewards import Verdict
from jaxrl.tasks.problem import Problem

PROBLEMS = [Problem(f"id{n}", "p3", f"Q{n}", "", "", False, (), n) for n in range(6)]
ASKING = Asking(samples=2, temperature=0.7, max_new_tokens=9, seed=5, concurrency=4)


def judge(problem, response, truncated):
    right = response.split()[0] == problem.question and not truncated
    return Verdict("correct" if right else "wrong_answer", (), 1.0, 1.0, 2.0, "rule-1", ())


def completion(body, finish="stop"):
    said = f"{body['messages'][0]['content']} {body['temperature']} {body.get('seed')}"
    usage = {"prompt_tokens": 10, "completion_tokens": 4}
    return 200, {}, json.dumps({"choices": [{"message": {"content": said}, "finish_reason": finish}], "usage": usage})


def measure(server, path, asking=ASKING, problems=PROBLEMS, said=None, retries=0):
    endpoint = Endpoint(server.url, "m", retries=retries)
    with AnswerLog(path, asking.settings(endpoint)) as log:
        return evaluate_endpoint(
            endpoint,
            problems,
            asking,
            log,
            judge=judge,
            messages=lambda problem: [{"role": "user", "content": problem.question}],
            say=([] if said is None else said).append,
        )


def test_answers_stand_with_their_questions_however_they_come(serve, tmp_path):
    gate = threading.Barrier(4, timeout=20)  # four are under way at a time, and none is answered before the others came

    def answer(body, number):
        if number < 4:
            gate.wait()
        return completion(body)

    result = measure(server := serve(answer), tmp_path / "a.jsonl")
    assert [item.problem for item in result.items] == [problem.id for problem in PROBLEMS]
    assert all(item.greedy[0].response == f"{item.question} 0.0 None" for item in result.items)
    assert all(item.sampled[0].response.startswith(f"{item.question} 0.7 ") for item in result.items)
    seeds = [body["seed"] for _, body in server.requests if "seed" in body]
    assert len(set(seeds)) == len(seeds) == 12  # a seed of its own for every sample
    assert {row.mode: row.accuracy.value for row in rows(result)} == {"greedy": 1.0, "sampled": 1.0}
    assert rows(result)[0].mean_tokens == 4
    assert (result.settings["prompt_tokens"], result.settings["completion_tokens"]) == (180, 72)
    assert "cost: 180 tokens of prompts, 72 of answers" in markdown(result)
    assert (result.model, result.settings["name"]) == (f"m at {server.url}", "m")


def test_an_interrupted_evaluation_asks_only_what_is_missing(serve, tmp_path):
    path, broken = tmp_path / "deep" / "a.jsonl", True
    server = serve(lambda body, number: (400, {}, "enough") if broken and number >= 7 else completion(body))
    with pytest.raises(ValueError, match="enough"):
        measure(server, path, dataclasses.replace(ASKING, concurrency=2))
    kept = path.read_bytes()
    assert len(kept.splitlines()) == 1 + 7  # the settings, and every answer that came
    path.write_bytes(kept[:-9])  # as a killed command leaves it
    broken, said = False, []
    server.requests.clear()
    result = measure(server, path, said=said)
    assert len(server.requests) == 18 - 6 and said[0].startswith("6 of 18 answers are in")
    assert path.read_bytes().startswith(kept[: kept[:-9].rfind(b"\n") + 1])
    assert result == measure(server, path) and len(server.requests) == 12  # nothing is asked twice
    assert result.items == measure(server, tmp_path / "whole.jsonl").items
    problems = [*PROBLEMS, PROBLEMS[0]._replace(question="Q6")]
    more = measure(server, path, dataclasses.replace(ASKING, samples=3), problems)
    assert len(server.requests) == 12 + 18 + 6 + 4  # a third sample of six questions, and all of a new one
    assert more.items[0].sampled[:2] == result.items[0].sampled


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"temperature": 0.8}, "asked for with temperature 0.7, this command asks with 0.8"),
        ({"max_new_tokens": 10}, "max_new_tokens 9"),
        ({"seed": 6}, "seed 5"),
    ],
)
def test_answers_of_other_settings_are_refused_by_name(serve, tmp_path, change, said):
    server, path = serve(lambda body, number: completion(body)), tmp_path / "a.jsonl"
    measure(server, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=said):
        measure(server, path, dataclasses.replace(ASKING, **change))
    assert path.read_bytes() == before and len(server.requests) == 18


@pytest.mark.parametrize("content", ["my thesis", '{"thesis": 1}\n', "[]\n", "", '{"settings": '])
def test_a_file_of_something_else_stays_as_it_is(serve, tmp_path, content):
    server, path = serve(lambda body, number: completion(body)), tmp_path / "a.jsonl"
    path.write_text(content)
    if "settings" in content or not content:  # what a command that was killed at its first word leaves
        assert len(measure(server, path).items) == 6
        return
    with pytest.raises(ValueError, match="line 1, is no answer"):
        measure(server, path)
    assert path.read_text() == content and not server.requests


def test_a_damaged_line_is_named(serve, tmp_path):
    server, path = serve(lambda body, number: completion(body)), tmp_path / "a.jsonl"
    measure(server, path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b'{"asked": 1}\n', *lines[4:]]))
    with pytest.raises(ValueError, match="line 4, is no answer"):
        measure(server, path)


def test_the_length_limit_cuts_an_answer_off_and_greedy_can_be_left_out(serve, tmp_path):
    server = serve(lambda body, number: completion(body, "length"))
    result = measure(server, tmp_path / "a.jsonl", dataclasses.replace(ASKING, greedy=False))
    (row,) = rows(result)
    assert (row.mode, row.cut_off, row.accuracy.value) == ("sampled", 1.0, 0.0)
    assert len(server.requests) == 12
    with pytest.raises(ValueError, match="concurrency of 1 or more"):
        dataclasses.replace(ASKING, concurrency=0)


def test_requests_that_rest_give_up_when_another_fails_for_good(serve, tmp_path):
    def answer(body, number):
        return (429, {"Retry-After": "599"}, "") if body["temperature"] else (400, {}, "no")

    with pytest.raises(ValueError, match="refuses"):
        measure(serve(answer), tmp_path / "a.jsonl", ASKING, PROBLEMS[:2], retries=3)

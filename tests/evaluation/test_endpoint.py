"""One request to a real server on this machine: what is sent, what is tried again, what is refused, and the key."""

import json

import pytest

from jaxrl.evaluation import endpoint
from jaxrl.evaluation.endpoint import Endpoint, Reply, ask, make_endpoint

QUESTION = [{"role": "user", "content": "Who is what?"}]


def completion(text="fine", finish="stop", counts=(7, 3), **message):
    usage = dict(zip(("prompt_tokens", "completion_tokens"), counts, strict=True))
    choice = {"message": {"role": "assistant", "content": text} | message, "finish_reason": finish}
    return 200, {}, json.dumps({"choices": [choice], "usage": usage})


def asked(server, rests=None, retries=3, key="", **options):
    rest = (lambda seconds: None) if rests is None else rests.append
    return ask(Endpoint(server.url, "m", key, retries=retries, **options), QUESTION, 9, 0.5, 11, rest)


def test_a_request_has_the_question_and_the_answer_is_counted_by_the_server(serve):
    server = serve(lambda body, number: completion())
    assert asked(server) == Reply("fine", "stop", 7, 3)
    ask(Endpoint(server.url, "m", limit_field="max_completion_tokens"), QUESTION, 9, 0.0)
    (headers, sampled), (_, greedy) = server.requests
    assert headers["path"] == "/v1/chat/completions"
    both = {"model": "m", "messages": QUESTION}
    assert sampled == both | {"temperature": 0.5, "top_p": 1.0, "max_tokens": 9, "seed": 11}
    assert greedy == both | {"temperature": 0.0, "max_completion_tokens": 9}


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"reasoning_content": "hm"}, "<think>hm</think>fine"),
        ({"reasoning": "hm"}, "<think>hm</think>fine"),
        ({"reasoning_content": "", "reasoning": None}, "fine"),
        ({"content": None}, ""),
        ({"content": None, "reasoning_content": "hm"}, "<think>hm</think>"),
        ({"content": "\ud83d!"}, "?!"),
    ],
)
def test_reasoning_that_was_taken_apart_is_put_back(serve, message, text):
    assert asked(serve(lambda body, number: completion(**message))).text == text


def test_thinking_that_was_cut_off_stays_open(serve):
    server = serve(lambda body, number: completion(None, "length", reasoning_content="hm"))
    assert asked(server) == Reply("<think>hm", "length", 7, 3)


def test_a_fault_of_the_server_is_waited_out(serve):
    faults = [(429, {"Retry-After": "31"}, "slow down"), (503, {}, ""), None, (200, {"Content-Length": "999"}, "{")]
    server = serve(lambda body, number: faults[number] if number < 4 else completion())
    rests = []
    assert asked(server, rests, retries=4).text == "fine"
    assert rests[0] == 31  # what the server asked for; then twice as long each time, by chance up to a half less
    assert [2**n / 2 <= rest <= 2**n for n, rest in enumerate(rests)][1:] == [True] * 3
    assert all(body == server.requests[0][1] for _, body in server.requests)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ((500, {}, "out of memory"), "no answer in 3 attempts (the last: 500 'out of memory')"),
        (None, "no answer in 3 attempts (the last: Remote end closed connection"),
    ],
)
def test_attempts_are_bounded(serve, fault, said):
    server = serve(lambda body, number: fault)
    with pytest.raises(ConnectionError) as caught:
        asked(server, [], retries=2)
    assert said in str(caught.value)
    assert len(server.requests) == 3


def test_a_server_that_wants_a_long_pause_is_left_alone(serve):
    server = serve(lambda body, number: (429, {"Retry-After": "7200"}, "quota"))
    with pytest.raises(ConnectionError, match="asks for a pause of 7200 s"):
        asked(server)
    assert len(server.requests) == 1


def test_nobody_there_is_a_lost_connection(serve):
    rests = []
    with pytest.raises(ConnectionError, match=r"no answer in 2 attempts .*refused"):
        ask(Endpoint("http://127.0.0.1:9/v1", "m", retries=1), QUESTION, 9, 0.0, None, rests.append)
    assert len(rests) == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, {}, "<html>welcome"), "expected a chat completion with its usage .*<html>welcome"),
        ((200, {}, '{"choices": []}'), "expected a chat completion"),
        ((200, {}, '{"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}'), "with its usage"),
        ((200, {}, "[1]"), "expected a chat completion"),
        ((400, {}, "temperature"), r"refuses .*\(400 'temperature'\)\.$"),
        ((404, {}, "no such page"), "usually in /v1"),
        ((302, {"Location": "http://127.0.0.1:9/"}, ""), r"refuses .*\(302"),
    ],
)
def test_what_another_attempt_can_not_mend_is_said_at_once(serve, answer, said):
    server = serve(lambda body, number: answer)
    with pytest.raises(ValueError, match=said):
        asked(server)
    assert len(server.requests) == 1


def test_the_key_is_sent_and_never_shown(serve):
    server = serve(lambda body, number: completion() if number == 0 else (401, {}, "no: sk-secret"))
    asked(server, key="sk-secret")
    with pytest.raises(ValueError, match=r"'no: \*\*\*'"):
        asked(server, key="sk-secret")
    assert [headers["Authorization"] for headers, _ in server.requests] == ["Bearer sk-secret"] * 2
    assert "sk-secret" not in repr(Endpoint(server.url, "m", "sk-secret"))
    asked(plain := serve(lambda body, number: completion()))
    assert "Authorization" not in plain.requests[0][0]


@pytest.mark.parametrize(
    ("url", "variable", "key"),
    [
        ("https://h/v1", None, "sk-a"),
        ("https://h/v1", "B", "sk-b"),
        ("http://127.0.0.1:8000/v1/", None, ""),
        ("http://node7:8000/v1", None, ""),
        ("http://localhost/v1", "B", "sk-b"),
    ],
)
def test_http_gets_a_key_only_where_one_is_named(url, variable, key):
    found = make_endpoint(url, "m", {"OPENAI_API_KEY": "sk-a", "B": "sk-b\n"}, variable)
    assert (found.key, found.url) == (key, url.rstrip("/"))


@pytest.mark.parametrize(
    ("url", "environment", "said"),
    [
        ("https://h/v1", {}, "variable OPENAI_API_KEY, found none"),
        ("https://h/v1", {"OPENAI_API_KEY": "a\nb"}, "no header"),
        ("https://me:word@h/v1", {"OPENAI_API_KEY": "a"}, "without user"),
        ("https://h/v1?key=word", {}, "without user"),
        ("https:///v1", {}, "expected an address"),
        ("http://h:x/v1", {}, "Port"),
        ("http://h/v 1", {}, "an address"),
    ],
)
def test_addresses_and_keys_are_checked_and_not_repeated(url, environment, said):
    with pytest.raises(ValueError, match=said) as caught:
        make_endpoint(url, "m", environment)
    assert "word" not in str(caught.value) and "a\nb" not in str(caught.value)


def test_retry_after_is_a_number_or_a_date():
    assert endpoint._pause("2.5") == 2.5
    assert endpoint._pause("Thu, 01 Jan 2099 00:00:00 GMT") > 1e9
    past = "Thu, 01 Jan 1970 00:00:00 GMT"
    assert [endpoint._pause(said) for said in (None, "", "-3", "soon", "nan", past)] == [0] * 6

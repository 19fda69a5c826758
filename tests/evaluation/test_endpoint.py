"""Requests to a local HTTP server: their content, retries, errors and the key."""

import json

import pytest

from jaxrl.evaluation import endpoint
from jaxrl.evaluation.endpoint import Endpoint, Reply, make_endpoint, request_completion

QUESTION = [{"role": "user", "content": "Who is what?"}]


def completion(text="fine", finish="stop", counts=(7, 3), **message):
    usage = dict(zip(("prompt_tokens", "completion_tokens"), counts, strict=True))
    choice = {"message": {"role": "assistant", "content": text} | message, "finish_reason": finish}
    return 200, {}, json.dumps({"choices": [choice], "usage": usage})


def request(server, sleeps=None, retries=3, key="", **options):
    sleep = (lambda seconds: None) if sleeps is None else sleeps.append
    return request_completion(Endpoint(server.url, "m", key, retries=retries, **options), QUESTION, 9, 0.5, 11, sleep)


def test_request_body_and_token_counts_of_the_server(serve):
    server = serve(lambda body, number: completion())
    assert request(server) == Reply("fine", "stop", 7, 3)
    request_completion(Endpoint(server.url, "m", limit_field="max_completion_tokens"), QUESTION, 9, 0.0)
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
def test_separate_reasoning_is_put_back_before_the_content(serve, message, text):
    assert request(serve(lambda body, number: completion(**message))).text == text


def test_truncated_reasoning_has_no_end_tag(serve):
    server = serve(lambda body, number: completion(None, "length", reasoning_content="hm"))
    assert request(server) == Reply("<think>hm", "length", 7, 3)


def test_server_errors_are_retried(serve):
    errors = [(429, {"Retry-After": "31"}, "slow down"), (503, {}, ""), None, (200, {"Content-Length": "999"}, "{")]
    server = serve(lambda body, number: errors[number] if number < 4 else completion())
    sleeps = []
    assert request(server, sleeps, retries=4).text == "fine"
    assert sleeps[0] == 31  # Retry-After; then exponential backoff with jitter
    assert [2**n / 2 <= seconds <= 2**n for n, seconds in enumerate(sleeps)][1:] == [True] * 3
    assert all(body == server.requests[0][1] for _, body in server.requests)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ((500, {}, "out of memory"), "did not respond in 3 attempts (last error: 500 'out of memory')"),
        (None, "did not respond in 3 attempts (last error: Remote end closed connection"),
    ],
)
def test_number_of_attempts_is_limited(serve, error, message):
    server = serve(lambda body, number: error)
    with pytest.raises(ConnectionError) as caught:
        request(server, [], retries=2)
    assert message in str(caught.value)
    assert len(server.requests) == 3


def test_long_retry_after_is_an_error(serve):
    server = serve(lambda body, number: (429, {"Retry-After": "7200"}, "quota"))
    with pytest.raises(ConnectionError, match="requests a pause of 7200 s"):
        request(server)
    assert len(server.requests) == 1


def test_refused_connection_is_a_connection_error(serve):
    sleeps = []
    with pytest.raises(ConnectionError, match=r"did not respond in 2 attempts .*refused"):
        request_completion(Endpoint("http://127.0.0.1:9/v1", "m", retries=1), QUESTION, 9, 0.0, None, sleeps.append)
    assert len(sleeps) == 1


@pytest.mark.parametrize(
    ("response", "message"),
    [
        ((200, {}, "<html>welcome"), "expected a chat completion with its usage .*<html>welcome"),
        ((200, {}, '{"choices": []}'), "expected a chat completion"),
        ((200, {}, '{"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}'), "with its usage"),
        ((200, {}, "[1]"), "expected a chat completion"),
        ((400, {}, "temperature"), r"refused .*\(400 'temperature'\)\.$"),
        ((404, {}, "no such page"), "usually ending in /v1"),
        ((302, {"Location": "http://127.0.0.1:9/"}, ""), r"refused .*\(302"),
    ],
)
def test_errors_that_a_retry_cannot_fix_are_raised_at_once(serve, response, message):
    server = serve(lambda body, number: response)
    with pytest.raises(ValueError, match=message):
        request(server)
    assert len(server.requests) == 1


def test_key_is_sent_and_never_printed(serve):
    server = serve(lambda body, number: completion() if number == 0 else (401, {}, "no: sk-secret"))
    request(server, key="sk-secret")
    with pytest.raises(ValueError, match=r"'no: \*\*\*'"):
        request(server, key="sk-secret")
    assert [headers["Authorization"] for headers, _ in server.requests] == ["Bearer sk-secret"] * 2
    assert "sk-secret" not in repr(Endpoint(server.url, "m", "sk-secret"))
    request(plain := serve(lambda body, number: completion()))
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
def test_key_is_sent_over_http_only_if_its_variable_is_given(url, variable, key):
    found = make_endpoint(url, "m", {"OPENAI_API_KEY": "sk-a", "B": "sk-b\n"}, variable)
    assert (found.key, found.url) == (key, url.rstrip("/"))


@pytest.mark.parametrize(
    ("url", "environment", "message"),
    [
        ("https://h/v1", {}, "variable OPENAI_API_KEY, which is not set"),
        ("https://h/v1", {"OPENAI_API_KEY": "a\nb"}, "not allowed in a header"),
        ("https://me:word@h/v1", {"OPENAI_API_KEY": "a"}, "without user"),
        ("https://h/v1?key=word", {}, "without user"),
        ("https:///v1", {}, "expected a URL"),
        ("http://h:x/v1", {}, "Port"),
        ("http://h/v 1", {}, "expected a URL"),
    ],
)
def test_urls_and_keys_are_checked_and_not_repeated_in_errors(url, environment, message):
    with pytest.raises(ValueError, match=message) as caught:
        make_endpoint(url, "m", environment)
    assert "word" not in str(caught.value) and "a\nb" not in str(caught.value)


def test_retry_after_is_a_number_or_a_date():
    assert endpoint._retry_after("2.5") == 2.5
    assert endpoint._retry_after("Thu, 01 Jan 2099 00:00:00 GMT") > 1e9
    past = "Thu, 01 Jan 1970 00:00:00 GMT"
    assert [endpoint._retry_after(header) for header in (None, "", "-3", "soon", "nan", past)] == [0] * 6

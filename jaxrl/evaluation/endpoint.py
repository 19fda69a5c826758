"""Chat completion requests to an OpenAI-compatible server, retried after server and network errors."""

import contextlib
import functools
import http.client
import ipaddress
import json
import random
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

LIMIT_FIELDS = ("max_tokens", "max_completion_tokens")
KEY_VARIABLE = "OPENAI_API_KEY"
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before the first retry, and at most
LONGEST_RETRY_AFTER = 600.0  # seconds; if a server requests more, the request fails
QUOTED = 300  # characters of a server's message in an error


@dataclass(frozen=True)
class Endpoint:
    """A model on a server.

    url: up to the version, as https://HOST/v1. name: of the model on the server. key: sent unless it is "", never
    printed. limit_field: the server's name for the token limit. timeout: seconds without receiving data. retries:
    number of attempts after the first.
    """

    url: str
    name: str
    key: str = field(default="", repr=False)
    limit_field: str = "max_tokens"
    timeout: float = 600.0
    retries: int = 8

    def __post_init__(self):
        if self.limit_field not in LIMIT_FIELDS or self.timeout <= 0 or self.retries < 0:
            raise ValueError(
                f"expected a limit field of {LIMIT_FIELDS}, a timeout above 0 and 0 or more retries, got "
                f"{self.limit_field!r}, {self.timeout} and {self.retries}."
            )


class Reply(NamedTuple):
    """The response of a server. Tokens are counted by the server."""

    text: str
    finish: str  # finish reason as the server reports it; "length": truncated at the token limit
    prompt_tokens: int
    completion_tokens: int


def is_endpoint(model: str) -> bool:
    """Whether a model is given by a URL."""
    return model.startswith(("http://", "https://"))


def make_endpoint(
    url: str, name: str, environment: Mapping[str, str], key_variable: str | None = None, **options: Any
) -> Endpoint:
    """The endpoint at `url`, with its key from `environment`.

    https requires a key, from `key_variable` or OPENAI_API_KEY. Over http, which is not encrypted, a key is sent only
    if `key_variable` is given. Raises ValueError for an invalid URL and for a missing or invalid key.
    """
    parts = urlsplit(url)
    # `parts.port` raises ValueError if the port is not a number
    if not parts.hostname or parts.port == 0 or parts.username or parts.query or parts.fragment or len(url.split()) > 1:
        raise ValueError(
            "expected a URL such as https://HOST/v1, without user, query or fragment, got one with host "
            f"{parts.hostname!r}; keys are read from the environment."
        )
    variable = key_variable or (KEY_VARIABLE if parts.scheme == "https" else None)
    key = environment.get(variable, "").strip() if variable else ""
    if variable and not key:
        raise ValueError(
            f"expected the key for {parts.hostname} in the environment variable {variable}, which is not set; "
            "set it, or choose another with --key-variable."
        )
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"the key in {variable} contains characters that are not allowed in a header; set it again.")
    return Endpoint(url.rstrip("/"), name, key, **options)


def request_completion(
    endpoint: Endpoint,
    messages: Sequence[Mapping[str, str]],
    max_new_tokens: int,
    temperature: float,
    seed: int | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> Reply:
    """Requests the response to `messages`; temperature 0 is greedy decoding.

    If a server returns the reasoning separately (`reasoning_content` or `reasoning`), it is put back before the content
    as <think>...</think>, so that the rule scores the full response. Time-outs, lost connections, 429 and 5xx are
    retried with exponential backoff and jitter, after at least Retry-After. Raises ConnectionError if all attempts
    fail, ValueError for errors that a retry cannot fix.
    """
    body: dict[str, Any] = {
        "model": endpoint.name,
        "messages": list(messages),
        "temperature": temperature,
        endpoint.limit_field: max_new_tokens,
    }
    if temperature > 0:
        body["top_p"] = 1.0  # some servers default to the value in the model's generation_config.json
    if seed is not None:
        body["seed"] = seed
    content = json.dumps(body).encode()
    for attempt in range(endpoint.retries + 1):
        outcome = _attempt(endpoint, content)
        if isinstance(outcome, bytes):
            return _reply(endpoint, outcome)
        if attempt == endpoint.retries or outcome.retry_after > LONGEST_RETRY_AFTER:
            break
        sleep(max(outcome.retry_after, random.uniform(0.5, 1.0) * min(FIRST_WAIT * 2**attempt, LONGEST_WAIT)))
    long = outcome.retry_after > LONGEST_RETRY_AFTER
    retry_after = f", and it requests a pause of {outcome.retry_after:.0f} s" if long else ""
    raise ConnectionError(
        f"{endpoint.url} did not respond in {attempt + 1} attempts (last error: {outcome.reason}){retry_after}; "
        "run the same command later to resume."
    )


class _Failure(NamedTuple):
    """A failed attempt that can be retried. retry_after: seconds that the server requests."""

    reason: str
    retry_after: float = 0.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Turns redirects into errors: they would send the key to another host, and the request as a GET."""

    def redirect_request(self, *_):
        return None


def _attempt(endpoint: Endpoint, content: bytes) -> bytes | _Failure:
    headers = {"Content-Type": "application/json", "User-Agent": "jaxrl"}
    if endpoint.key:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    request = urllib.request.Request(f"{endpoint.url}/chat/completions", content, headers, method="POST")
    try:
        with _opener(_is_loopback(endpoint.url)).open(request, timeout=endpoint.timeout) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        message = _quoted(endpoint, _read(error))
        if error.code in (408, 409, 429) or error.code >= 500:
            return _Failure(f"{error.code} {message}", _retry_after(error.headers.get("Retry-After")))
        hint = (
            "; expected a --model without /chat/completions, usually ending in /v1" if error.code in (404, 405) else ""
        )
        raise ValueError(f"{endpoint.url} refused the request ({error.code} {message}){hint}.") from None
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise ValueError(f"the certificate of {endpoint.url} could not be verified ({cause}).") from error
        return _Failure(str(cause) or type(cause).__name__)


def _read(error: urllib.error.HTTPError) -> bytes:
    """The body of an error response, if it was received."""
    with error, contextlib.suppress(OSError, http.client.HTTPException):
        return error.read()
    return b""


@functools.cache
def _opener(direct: bool) -> urllib.request.OpenerDirector:
    """direct: without a proxy, for servers on this machine."""
    proxies = [urllib.request.ProxyHandler({})] if direct else []
    return urllib.request.build_opener(_NoRedirect, *proxies)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _retry_after(header: str | None) -> float:
    """Seconds of a Retry-After header, which is a number or a date; 0 if it is missing or invalid."""
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # not a date, or a date without a time zone
        return 0.0


def _quoted(endpoint: Endpoint, content: bytes) -> str:
    """The first characters of a server's message on one line, with the key masked if the server repeats it."""
    text = " ".join(content.decode(errors="replace").split())
    text = text.replace(endpoint.key, "***") if endpoint.key else text
    return repr(text[:QUOTED])


def _reply(endpoint: Endpoint, content: bytes) -> Reply:
    try:
        record = json.loads(content)
        choice, usage = record["choices"][0], record["usage"]
        message = choice["message"]
        reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
        text = (message.get("content") if reasoning else message["content"]) or ""
        finish = choice["finish_reason"] or ""
        if reasoning:
            truncated = finish == "length" and not text  # inside the reasoning, so it has no end tag
            text = f"<think>{reasoning}{'' if truncated else '</think>'}{text}"
        text = text.encode(errors="replace").decode()  # a lone surrogate cannot be encoded as UTF-8
        return Reply(text, finish, int(usage["prompt_tokens"]), int(usage["completion_tokens"]))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(
            f"expected a chat completion with its usage from {endpoint.url}, got {_quoted(endpoint, content)}; "
            "use an OpenAI-compatible server."
        ) from error

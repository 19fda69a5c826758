"""One request to an OpenAI-compatible server, repeated where the fault is the server's or the network's."""

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
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before the second and before a late attempt
LONGEST_PAUSE = 600.0  # a server that asks for more than this is left alone
QUOTED = 300  # characters of a server's answer in an error


@dataclass(frozen=True)
class Endpoint:
    """A model behind an address.

    url: up to the version, as https://HOST/v1. name: what the server calls the model. key: "" sends none; it is never
    shown. limit_field: how the server calls the limit of tokens. timeout: seconds without a byte. retries: further
    attempts after the first.
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
    """What a server answered. Tokens are counted by the server."""

    text: str
    finish: str  # the server's own word; "length": cut off by the limit
    prompt_tokens: int
    completion_tokens: int


def is_endpoint(model: str) -> bool:
    """Whether a model is named by an address."""
    return model.startswith(("http://", "https://"))


def make_endpoint(
    url: str, name: str, environment: Mapping[str, str], key_variable: str | None = None, **options: Any
) -> Endpoint:
    """The endpoint at `url`, with its key from `environment`.

    https needs a key, from `key_variable` or OPENAI_API_KEY. http, which anybody on the way can read, gets one only
    where `key_variable` names it. Raises ValueError for an address of another form and for a key that is not there.
    """
    parts = urlsplit(url)
    # asking for the port raises ValueError where it is no number
    if not parts.hostname or parts.port == 0 or parts.username or parts.query or parts.fragment or len(url.split()) > 1:
        raise ValueError(
            "expected an address such as https://HOST/v1, without user, query or fragment, got one with "
            f"host {parts.hostname!r}; keys are read from the environment."
        )
    variable = key_variable or (KEY_VARIABLE if parts.scheme == "https" else None)
    key = environment.get(variable, "").strip() if variable else ""
    if variable and not key:
        raise ValueError(
            f"expected the key for {parts.hostname} in the environment variable {variable}, found none; "
            "set it, or name another with --key-variable."
        )
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"the key in {variable} has signs that no header can carry; set it again.")
    return Endpoint(url.rstrip("/"), name, key, **options)


def ask(
    endpoint: Endpoint,
    messages: Sequence[Mapping[str, str]],
    max_new_tokens: int,
    temperature: float,
    seed: int | None = None,
    rest: Callable[[float], object] = time.sleep,
) -> Reply:
    """The answer to `messages`; temperature 0 is greedy.

    Reasoning that a server hands over apart from the content (`reasoning_content`, or `reasoning`) is put back before
    it, as <think>...</think>: the rule judges what the model wrote. Time-outs, lost connections, 429 and 5xx are tried
    again after `rest(seconds)`: twice as long each time, by chance up to a half less, and at least as long as
    Retry-After says. Raises ConnectionError when that was in vain, ValueError for what another attempt can't mend.
    """
    body: dict[str, Any] = {
        "model": endpoint.name,
        "messages": list(messages),
        "temperature": temperature,
        endpoint.limit_field: max_new_tokens,
    }
    if temperature > 0:
        body["top_p"] = 1.0  # else some servers take the one of the model's generation_config.json
    if seed is not None:
        body["seed"] = seed
    content = json.dumps(body).encode()
    for attempt in range(endpoint.retries + 1):
        found = _once(endpoint, content)
        if isinstance(found, bytes):
            return _reply(endpoint, found)
        if attempt == endpoint.retries or found.pause > LONGEST_PAUSE:
            break
        rest(max(found.pause, random.uniform(0.5, 1.0) * min(FIRST_WAIT * 2**attempt, LONGEST_WAIT)))
    asked = f" and asks for a pause of {found.pause:.0f} s" if found.pause > LONGEST_PAUSE else ""
    raise ConnectionError(
        f"{endpoint.url} gave no answer in {attempt + 1} attempts (the last: {found.reason}){asked}; "
        "start the same command again later, it goes on where it was."
    )


class _Failure(NamedTuple):
    """An attempt that another one may mend; `pause`: seconds that the server asks for."""

    reason: str
    pause: float = 0.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host and the request as a GET, so it is an error."""

    def redirect_request(self, *_):
        return None


def _once(endpoint: Endpoint, content: bytes) -> bytes | _Failure:
    headers = {"Content-Type": "application/json", "User-Agent": "jaxrl"}
    if endpoint.key:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    request = urllib.request.Request(f"{endpoint.url}/chat/completions", content, headers, method="POST")
    try:
        with _opener(_is_loopback(endpoint.url)).open(request, timeout=endpoint.timeout) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        said = _quoted(endpoint, _read(error))
        if error.code in (408, 409, 429) or error.code >= 500:
            return _Failure(f"{error.code} {said}", _pause(error.headers.get("Retry-After")))
        hint = "; --model ends before /chat/completions, usually in /v1" if error.code in (404, 405) else ""
        raise ValueError(f"{endpoint.url} refuses what it was asked ({error.code} {said}){hint}.") from None
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise ValueError(f"the certificate of {endpoint.url} is not to be trusted ({cause}).") from error
        return _Failure(str(cause) or type(cause).__name__)


def _read(error: urllib.error.HTTPError) -> bytes:
    """What stands in a refusal, if it came."""
    with error, contextlib.suppress(OSError, http.client.HTTPException):
        return error.read()
    return b""


@functools.cache
def _opener(direct: bool) -> urllib.request.OpenerDirector:
    """direct: past any proxy, as this machine itself is reached."""
    proxies = [urllib.request.ProxyHandler({})] if direct else []
    return urllib.request.build_opener(_NoRedirect, *proxies)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _pause(header: str | None) -> float:
    """Seconds of a Retry-After, which is a number or a date; 0 without one."""
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # no date either, or one without a zone
        return 0.0


def _quoted(endpoint: Endpoint, content: bytes) -> str:
    """The start of what a server said, on one line, without the key that it may repeat."""
    text = " ".join(content.decode(errors="replace").split())
    text = text.replace(endpoint.key, "***") if endpoint.key else text
    return repr(text[:QUOTED])


def _reply(endpoint: Endpoint, content: bytes) -> Reply:
    try:
        record = json.loads(content)
        choice, usage = record["choices"][0], record["usage"]
        message = choice["message"]
        thought = message.get("reasoning_content") or message.get("reasoning") or ""
        said = (message.get("content") if thought else message["content"]) or ""
        finish = choice["finish_reason"] or ""
        if thought:  # cut off inside it, the thinking never ended
            said = f"<think>{thought}{'' if finish == 'length' and not said else '</think>'}{said}"
        text = said.encode(errors="replace").decode()  # half a character can't be stored
        return Reply(text, finish, int(usage["prompt_tokens"]), int(usage["completion_tokens"]))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(
            f"expected a chat completion with its usage from {endpoint.url}, got "
            f"{_quoted(endpoint, content)}; is it OpenAI-compatible?"
        ) from error

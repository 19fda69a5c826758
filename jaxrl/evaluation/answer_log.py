"""Responses of a remote model, one per line as they arrive: a restarted evaluation requests only the missing ones."""

import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrl.evaluation.endpoint import Reply


class AnswerKey(NamedTuple):
    """Identifies a response. The hash of the prompt ensures that a response is never used for another prompt."""

    prompt_hash: str
    mode: str  # "greedy" or "sampled"
    sample: int


def hash_messages(messages: Sequence[Mapping[str, str]]) -> str:
    """A hash of the exact text of the messages."""
    return hashlib.blake2b(json.dumps(list(messages)).encode(), digest_size=12).hexdigest()


class AnswerLog:
    """The file of responses of one model. Its first line holds the settings of the requests.

    Opening removes an incomplete last line, left by a killed process. Raises ValueError, and does not change the file,
    if it contains something else or responses to other settings. Use as a context manager; `add` is thread-safe.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        self.path, self.settings, self.replies = path, dict(settings), {}
        self._lock, self._file = threading.Lock(), None
        content = path.read_bytes() if path.is_file() else b""
        complete = content[: content.rfind(b"\n") + 1]
        header, *lines = complete.splitlines() or [b""]
        if complete:
            self._check(header)
        elif not self._header().startswith(content):
            raise self._invalid("line 1")
        for number, line in enumerate(lines, start=2):
            key, reply = self._parse(number, line)
            self.replies.setdefault(key, reply)
        if len(complete) < len(content):
            os.truncate(path, len(complete))

    def __enter__(self) -> "AnswerLog":
        return self

    def __exit__(self, *_) -> None:
        if self._file:
            self._file.close()

    def add(self, key: AnswerKey, problem: str, reply: Reply) -> None:
        """Appends a response and syncs it to disk. problem: its id, for readers of the file."""
        line = json.dumps({"problem": problem} | key._asdict() | reply._asdict(), ensure_ascii=False) + "\n"
        with self._lock:
            if not self._file:
                self._open()
            self._file.write(line.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
            self.replies[key] = reply

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab")
        if not self._file.tell():
            self._file.write(self._header())

    def _header(self) -> bytes:
        return json.dumps({"settings": self.settings}, ensure_ascii=False).encode() + b"\n"

    def _check(self, header: bytes) -> None:
        try:
            stored = json.loads(header)["settings"]
            names = list(dict.fromkeys([*self.settings, *stored]))
        except (ValueError, TypeError, KeyError):
            raise self._invalid("line 1") from None
        for name in names:
            old, new = stored.get(name), self.settings.get(name)
            if old != new:
                raise ValueError(
                    f"{self.path} contains responses that were requested with {name} {old!r}, but this command uses "
                    f"{new!r}; choose another --output."
                )

    def _parse(self, number: int, line: bytes) -> tuple[AnswerKey, Reply]:
        try:
            record = json.loads(line)
            key, reply = ([record[name] for name in kind._fields] for kind in (AnswerKey, Reply))
        except (ValueError, TypeError, KeyError):
            raise self._invalid(f"line {number}") from None
        return AnswerKey(*key), Reply(*reply)

    def _invalid(self, where: str) -> ValueError:
        return ValueError(
            f"{self.path}, {where}: expected a response of an evaluation; choose another --output, or repair the file."
        )

"""Answers that were paid for, one a line as they come: a second start asks only for what is missing."""

import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrl.evaluation.endpoint import Reply


class Place(NamedTuple):
    """Which answer it is. `asked` is a mark of the very words, so that other words are never taken for the same."""

    asked: str
    mode: str  # "greedy" or "sampled"
    sample: int


def mark(messages: Sequence[Mapping[str, str]]) -> str:
    """A mark of what was asked, the same for the same words."""
    return hashlib.blake2b(json.dumps(list(messages)).encode(), digest_size=12).hexdigest()


class AnswerLog:
    """The file of answers to one model; its first line is the settings that they were asked with.

    Opening takes away a last line that a killed command left torn. Raises ValueError, and leaves the file alone, where
    it holds something else or answers of other settings. Use as a context manager; `add` may come from any thread.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        self.path, self.settings, self.replies = path, dict(settings), {}
        self._lock, self._file = threading.Lock(), None
        content = path.read_bytes() if path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1]
        head, *lines = whole.splitlines() or [b""]
        if whole:
            self._check(head)
        elif not self._head().startswith(content):
            raise self._foreign("line 1")
        for number, line in enumerate(lines, start=2):
            place, reply = self._read(number, line)
            self.replies.setdefault(place, reply)
        if len(whole) < len(content):
            os.truncate(path, len(whole))

    def __enter__(self) -> "AnswerLog":
        return self

    def __exit__(self, *_) -> None:
        if self._file:
            self._file.close()

    def add(self, place: Place, problem: str, reply: Reply) -> None:
        """Appends an answer, on disk on return. problem: its id, for readers."""
        line = json.dumps({"problem": problem} | place._asdict() | reply._asdict(), ensure_ascii=False) + "\n"
        with self._lock:
            if not self._file:
                self._open()
            self._file.write(line.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
            self.replies[place] = reply

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab")
        if not self._file.tell():
            self._file.write(self._head())

    def _head(self) -> bytes:
        return json.dumps({"settings": self.settings}, ensure_ascii=False).encode() + b"\n"

    def _check(self, head: bytes) -> None:
        try:
            stored = json.loads(head)["settings"]
            names = list(dict.fromkeys([*self.settings, *stored]))
        except (ValueError, TypeError, KeyError):
            raise self._foreign("line 1") from None
        for name in names:
            was, wanted = stored.get(name), self.settings.get(name)
            if was != wanted:
                raise ValueError(
                    f"{self.path} has answers that were asked for with {name} {was!r}, this command asks "
                    f"with {wanted!r}; choose another --output."
                )

    def _read(self, number: int, line: bytes) -> tuple[Place, Reply]:
        try:
            record = json.loads(line)
            return Place(*(record[name] for name in Place._fields)), Reply(*(record[name] for name in Reply._fields))
        except (ValueError, TypeError, KeyError):
            raise self._foreign(f"line {number}") from None

    def _foreign(self, where: str) -> ValueError:
        return ValueError(f"{self.path}, {where}, is no answer of an evaluation; choose another --output, or mend it.")

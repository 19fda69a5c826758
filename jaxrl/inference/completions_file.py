"""A file of completions, one per line, with the settings of its command, so that a killed command can be resumed."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrl.reporting.files import write_text

FIELDS = ("id", "sample", "text", "tokens", "logp", "finish")
FINISHES = ("stop", "length")


def prompts_hash(prompts: Iterable[tuple[Any, Sequence[int]]]) -> str:
    """A hash of (id, token ids) pairs in order, since completions depend on the index of their prompt."""
    pairs = [[name, list(tokens)] for name, tokens in prompts]
    return hashlib.blake2b(json.dumps(pairs, ensure_ascii=False).encode(), digest_size=12).hexdigest()


class CompletionFile:
    """The completions of one command: `samples` lines for each of `ids`, in order, and PATH.settings.json beside it.

    settings: all that the completions depend on, as plain values. `lines`: number of complete lines in the file.
    Opening only reads. Raises ValueError if the file was not written by the same command: if settings are missing or
    differ, if a line is not the expected one, or if an incomplete last line is not the beginning of the next one.
    """

    def __init__(self, path: Path, ids: Sequence[Any], samples: int, settings: Mapping[str, Any]):
        self.path, self.ids, self.samples, self.settings = path, ids, samples, dict(settings)
        self.settings_path = path.with_name(path.name + ".settings.json")
        self.lines = self._bytes = 0
        self._is_torn = False
        has_lines = path.exists() and path.stat().st_size > 0
        self._check_settings(has_lines)
        if has_lines:
            self._check_lines()

    def begin(self) -> None:
        """Prepares for `add`: writes the settings of a new file, or removes an incomplete last line."""
        if not self.lines:
            write_text(self.settings_path, json.dumps(self.settings, indent=2, ensure_ascii=False) + "\n")
        if self._is_torn:
            with self.path.open("r+b") as file:
                file.truncate(self._bytes)
            self._is_torn = False

    def add(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Appends the next lines and syncs them to disk."""
        with self.path.open("ab") as file:
            file.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode())
            file.flush()
            os.fsync(file.fileno())
        self.lines += len(records)

    def _check_settings(self, has_lines: bool) -> None:
        if not self.settings_path.exists():
            if has_lines:
                raise ValueError(
                    f"{self.path} is not empty, but its settings file {self.settings_path.name} is missing; "
                    "choose another --output."
                )
            return
        try:
            stored = json.loads(self.settings_path.read_bytes())
            is_other = stored.keys() != self.settings.keys()
        except (ValueError, AttributeError):
            is_other = True
        if is_other:
            raise ValueError(
                f"{self.settings_path} does not have this command's settings "
                f"({', '.join(self.settings)}); choose another --output."
            )
        differing = [
            f"{name} (stored {stored[name]!r}, now {value!r})"
            for name, value in self.settings.items()
            if stored[name] != value
        ]
        if has_lines and differing:
            raise ValueError(
                f"{self.path} was started with other settings: {', '.join(differing)}; use the stored values "
                "to resume it, or choose another --output."
            )

    def _check_lines(self) -> None:
        with self.path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    if not self._fits(line):
                        raise ValueError(
                            f"{self.path}, line {self.lines + 1}: expected {self._expected()}, got {line[:60]!r}; "
                            "choose another --output, or repair the line."
                        )
                    self.lines, self._bytes = self.lines + 1, self._bytes + len(line)
                elif self._may_be_torn(line):
                    self._is_torn = True
                else:
                    raise ValueError(
                        f"{self.path} ends, after line {self.lines}, in the incomplete line {line[:60]!r}: expected "
                        f"the beginning of {self._expected()}; choose another --output, or remove the line."
                    )

    def _next(self) -> tuple[Any, int] | None:
        """(id, sample) of the next line; None after the last one."""
        prompt, sample = divmod(self.lines, self.samples)
        return (self.ids[prompt], sample) if prompt < len(self.ids) else None

    def _expected(self) -> str:
        key = self._next()
        return f"sample {key[1]} of prompt {key[0]!r}" if key else "no further line, as all are written"

    def _fits(self, line: bytes) -> bool:
        """Whether this is the next line."""
        key = self._next()
        try:
            record = json.loads(line)
            tokens, logp = record["tokens"], record["logp"]
            return (
                key is not None
                and tuple(record) == FIELDS
                and json.dumps([record["id"], record["sample"]]) == json.dumps(key)
                and isinstance(record["text"], str)
                and record["finish"] in FINISHES
                and len(tokens) == len(logp) > 0
                and all(isinstance(token, int) for token in tokens)
            )
        except (ValueError, KeyError, TypeError):
            return False

    def _may_be_torn(self, line: bytes) -> bool:
        """Whether this may be the beginning of the next line."""
        key = self._next()
        if key is None:
            return False
        head = json.dumps({"id": key[0], "sample": key[1], "text": ""}, ensure_ascii=False).encode()[:-2]
        if len(line) <= len(head):
            return head.startswith(line)
        try:
            json.loads(line)
        except ValueError:
            return line.startswith(head)
        return self._fits(line)

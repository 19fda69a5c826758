"""Completions as they are drawn, one a line, and the settings of their command: a killed command is gone on with."""

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
    """A hash of (id, token ids) pairs in their order: a prompt's place is one of its completions' coordinates."""
    pairs = [[name, list(tokens)] for name, tokens in prompts]
    return hashlib.blake2b(json.dumps(pairs, ensure_ascii=False).encode(), digest_size=12).hexdigest()


class CompletionFile:
    """The completions of one command: `samples` lines for each of `ids`, in this order, with PATH.settings.json beside.

    path: the file. settings: all that its completions depend on, as JSON has it. `lines` is how many are there.
    Opening only reads. Raises ValueError where the file holds anything but the first lines of this very command: other
    settings or none, another line, a torn last line that is not the beginning of the next one.
    """

    def __init__(self, path: Path, ids: Sequence[Any], samples: int, settings: Mapping[str, Any]):
        self.path, self.ids, self.samples, self.settings = path, ids, samples, dict(settings)
        self.settings_path = path.with_name(path.name + ".settings.json")
        self.lines = self._bytes = 0
        self._torn = False
        filled = path.exists() and path.stat().st_size > 0
        self._check_settings(filled)
        if filled:
            self._check_lines()

    def begin(self) -> None:
        """Makes ready for `add`: writes the settings of a new file, cuts off the torn last line of an old one."""
        if not self.lines:
            write_text(self.settings_path, json.dumps(self.settings, indent=2, ensure_ascii=False) + "\n")
        if self._torn:
            with self.path.open("r+b") as file:
                file.truncate(self._bytes)
            self._torn = False

    def add(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Appends the next lines, on disk on return."""
        with self.path.open("ab") as file:
            file.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode())
            file.flush()
            os.fsync(file.fileno())
        self.lines += len(records)

    def _check_settings(self, filled: bool) -> None:
        if not self.settings_path.exists():
            if filled:
                raise ValueError(
                    f"{self.path} is not empty, and there is no {self.settings_path.name} that says how "
                    "its lines were drawn; choose another --output."
                )
            return
        try:
            stored = json.loads(self.settings_path.read_bytes())
            foreign = stored.keys() != self.settings.keys()
        except (ValueError, AttributeError):
            foreign = True
        if foreign:
            raise ValueError(
                f"{self.settings_path} is not a file of this command's settings "
                f"({', '.join(self.settings)}); choose another --output."
            )
        differing = [
            f"{name} (there {stored[name]!r}, now {value!r})"
            for name, value in self.settings.items()
            if stored[name] != value
        ]
        if filled and differing:
            raise ValueError(
                f"{self.path} was begun with other settings: {', '.join(differing)}; set them back to go "
                "on with it, or choose another --output."
            )

    def _check_lines(self) -> None:
        with self.path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    if not self._fits(line):
                        raise ValueError(
                            f"{self.path}, line {self.lines + 1}, is not {self._expected()}; choose "
                            "another --output, or mend the line."
                        )
                    self.lines, self._bytes = self.lines + 1, self._bytes + len(line)
                elif self._may_be_torn(line):
                    self._torn = True
                else:
                    raise ValueError(
                        f"{self.path} ends, after line {self.lines}, in {line[:60]!r} without an end of "
                        f"line, which is no beginning of {self._expected()}; choose another --output, or "
                        "take the piece away."
                    )

    def _next(self) -> tuple[Any, int] | None:
        """(id, sample) of the next line; None after the last."""
        prompt, sample = divmod(self.lines, self.samples)
        return (self.ids[prompt], sample) if prompt < len(self.ids) else None

    def _expected(self) -> str:
        place = self._next()
        return f"sample {place[1]} of prompt {place[0]!r}" if place else "one of this command's, which are all there"

    def _fits(self, line: bytes) -> bool:
        """Whether it is the next line."""
        place = self._next()
        try:
            record = json.loads(line)
            tokens, logp = record["tokens"], record["logp"]
            return (
                place is not None
                and tuple(record) == FIELDS
                and json.dumps([record["id"], record["sample"]]) == json.dumps(place)
                and isinstance(record["text"], str)
                and record["finish"] in FINISHES
                and len(tokens) == len(logp) > 0
                and all(isinstance(token, int) for token in tokens)
            )
        except (ValueError, KeyError, TypeError):
            return False

    def _may_be_torn(self, piece: bytes) -> bool:
        """Whether it may be a beginning of the next line."""
        place = self._next()
        if place is None:
            return False
        head = json.dumps({"id": place[0], "sample": place[1], "text": ""}, ensure_ascii=False).encode()[:-2]
        if len(piece) <= len(head):
            return head.startswith(piece)
        try:
            json.loads(piece)
        except ValueError:
            return piece.startswith(head)
        return self._fits(piece)

"""Score stored responses: JSON lines in, the same lines out with verdict and rewards.

    python -m jaxrl.score --input=responses.jsonl --output=scored.jsonl [--rule=strict-2]

Fields of a line: `quiz`, `people` ([[name, role word], ...]), `roles` ([truth word, lie word]), `response`,
`prompt_opens_think`, and optionally `truncated` (false). Rules that compare with a correct answer read it from
`target`, or from `answer`, and refuse a line whose target they can't judge by. All other fields are kept; `verdict`,
`reasons`, `format_reward`, `answer_reward`, `reward`, `rule` and `suspects` are added. Files that end in .gz are read
and written compressed. Exit status: 0 all lines were scored, 1 some lines could not be scored (listed on stderr), 2
nothing was done.
"""

import argparse
import contextlib
import dataclasses
import gzip
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from jaxrl.command_line import CommandParser, run
from jaxrl.rewards import RULES, SUSPECTS, VERDICTS, RewardValues, score

# Rules that need no verifier function of a task, which JSON can't hold.
RULES_WITHOUT_VERIFIER = [name for name, rule in RULES.items() if rule.needs != "verifier"]


def score_line(line: bytes, rule: str, values: RewardValues) -> dict[str, Any]:
    """The record of one line with the verdict's fields added. Raises ValueError for a line that can't be scored."""
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply to be read") from error
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, got {type(record).__name__}")
    verdict = score(
        _field(record, "response", str),
        quiz=_field(record, "quiz", str, ""),
        rule=rule,
        values=values,
        people=_people(record, RULES[rule].needs == "people"),
        roles=_strings(record, "roles"),
        target=_target(record),
        prompt_opens_think=_field(record, "prompt_opens_think", bool),
        truncated=_field(record, "truncated", bool, False),
    )
    fields = verdict._asdict() | {"reasons": list(verdict.reasons), "suspects": list(verdict.suspects)}
    return record | fields


def _field(record: dict, name: str, kind: type, default: Any = None) -> Any:
    value = record.get(name, default)
    if not isinstance(value, kind):
        found = "nothing" if name not in record else type(value).__name__
        raise ValueError(f"expected field {name!r} to be {kind.__name__}, got {found}")
    return value


def _strings(record: dict, name: str) -> tuple[str, ...]:
    value = _field(record, name, list, [])
    if not all(isinstance(word, str) for word in value):
        raise ValueError(f"expected field {name!r} to be a list of strings, got {value!r:.80}")
    return tuple(value)


def _people(record: dict, needed: bool) -> tuple[tuple[str, str], ...]:
    people = _field(record, "people", list, None if needed else [])
    for person in people:
        if not (isinstance(person, list) and len(person) == 2 and all(isinstance(word, str) for word in person)):
            raise ValueError(f"expected field 'people' to be [[name, role word], ...], got the entry {person!r:.80}")
    return tuple((name, role) for name, role in people)


def _target(record: dict) -> str | None:
    target = record.get("target", record.get("answer"))
    return str(target) if isinstance(target, (str, int, float)) else None


@dataclasses.dataclass
class Tally:
    """Counts for the summary."""

    verdicts: Counter = dataclasses.field(default_factory=Counter)
    suspects: Counter = dataclasses.field(default_factory=Counter)
    reward: float = 0.0
    scored: int = 0
    bad: int = 0

    def add(self, record: dict[str, Any]) -> None:
        self.verdicts[record["verdict"]] += 1
        self.suspects.update(record["suspects"])
        self.reward += record["reward"]
        self.scored += 1

    def table(self, rule: str) -> str:
        lines = [f"rule {rule}: {self.scored} responses scored, {self.bad} lines could not be scored"]
        if self.scored:
            lines.append(f"{'mean reward':<20}{self.reward / self.scored:>8.3f}")
        for name in VERDICTS:
            lines.append(f"{name:<20}{self.verdicts[name]:>8}{self.verdicts[name] / max(self.scored, 1):>9.1%}")
        shown = [name for name in SUSPECTS if self.suspects[name]]
        if shown:
            lines.append("suspects")
        lines += [f"  {name:<18}{self.suspects[name]:>8}{self.suspects[name] / self.scored:>9.1%}" for name in shown]
        return "\n".join(lines)


def score_file(source: Path, target: Path, rule: str, values: RewardValues) -> Tally:
    """Score `source` line by line into `target`, which is replaced at the end."""
    tally = Tally()
    with _open(source, "rb", source.suffix) as lines, _replacing(target) as output:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = score_line(line, rule, values)
            except ValueError as error:
                tally.bad += 1
                print(f"{source}, line {number}: {error}", file=sys.stderr)
                continue
            output.write(_encode(record))
            tally.add(record)
    return tally


def _open(path: Path, mode: str, suffix: str) -> IO[bytes]:
    return gzip.open(path, mode) if suffix == ".gz" else open(path, mode)


def _encode(record: dict[str, Any]) -> bytes:
    try:
        return json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n"
    except UnicodeEncodeError:  # a lone surrogate, which JSON can only hold as an escape
        return json.dumps(record).encode("ascii") + b"\n"


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[IO[bytes]]:
    """A file beside `target` that replaces it at the end, and is removed on any error."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with _open(partial, "wb", target.suffix) as output:
            yield output
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser("jaxrl.score", __doc__)
    parser.add_argument("--input", type=Path, required=True, help="JSON lines to score")
    parser.add_argument("--output", type=Path, required=True, help="the file for the scored lines")
    rules = "; ".join(f"{name}: {rule.summary}" for name, rule in RULES.items() if name in RULES_WITHOUT_VERIFIER)
    parser.add_argument(
        "--rule", choices=RULES_WITHOUT_VERIFIER, default="strict-2", help=f"{rules} (default strict-2)"
    )
    for field in dataclasses.fields(RewardValues):
        flag, default = field.name.replace("_", "-"), field.default
        parser.add_argument(f"--{flag}", type=float, default=default, help=f"reward (default {default})")
    return parser


def score_responses(given: argparse.Namespace) -> int:
    """Run the command; returns the exit status. Raises ValueError and OSError with one sentence each."""
    values = RewardValues(**{field.name: getattr(given, field.name) for field in dataclasses.fields(RewardValues)})
    missing = RULES[given.rule].check_installed()
    if missing:
        raise ValueError(f"--rule={given.rule}: {missing}.")
    if given.output.exists() and given.input.exists() and given.output.samefile(given.input):
        raise ValueError(f"--output is the same file as --input ({given.input}); choose another one.")
    tally = score_file(given.input, given.output, given.rule, values)
    print(tally.table(given.rule))
    return 1 if tally.bad else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run(make_parser(), score_responses, argv)


if __name__ == "__main__":
    sys.exit(main())

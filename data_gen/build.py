"""Writes puzzle files: python -m data_gen.build --people=5 --count=1000 --seed=0 --output=puzzles.jsonl"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn

from data_gen.canonical import canonical, split_of
from data_gen.dataset import read_forms, read_puzzles, write_jsonl
from data_gen.generate import generate
from data_gen.perturb import KINDS, perturb
from data_gen.puzzle import LEAVES, OPERATORS, Puzzle, Statement, to_record
from data_gen.spec import EQUAL_SHARES, PuzzleSpec


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"data_gen.build: {message}\n")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m data_gen.build", description="Writes knights-and-knaves puzzles.", allow_abbrev=False
    )
    add = parser.add_argument
    add("--output", required=True, metavar="FILE", help="the file to write, one JSON object a line")
    add("--people", type=int, help="2 to 12")
    add("--count", type=int, help="how many puzzles (with --splits: in all splits together)")
    add("--seed", type=int, default=0)
    add("--start", type=int, default=0, help="the first number to draw, so that files can continue each other")
    add("--depth", type=int, default=2, help="most operators inside one another, 1 to 4")
    add("--width", type=int, default=2, help='most operands of "and" and "or"')
    add(
        "--operators",
        metavar="NAME=WEIGHT,...",
        help=f"out of {', '.join(OPERATORS)}; a name left out weighs 0",
    )
    add("--hardness", metavar="LOW:HIGH", help="keep puzzles for which a plain solver opens so many branches")
    add("--wording", choices=("varied", "plain"), default="varied")
    add("--unique", choices=("canonical", "text"), default="canonical", help="what counts as the same puzzle")
    add(
        "--exclude",
        nargs="*",
        default=[],
        metavar="FILE",
        help="no puzzle that is in these up to renaming people",
    )
    add(
        "--splits",
        metavar="NAME=SHARE,...",
        help="one file a split (FILE.NAME.jsonl), chosen by canonical form",
    )
    add("--perturb", choices=KINDS, help="change each puzzle of --input instead of drawing new ones")
    add("--input", metavar="FILE", help="the puzzles to change")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Exit status 2, with one sentence on standard error, for a wish that cannot be fulfilled."""
    options = _arguments(argv)
    try:
        _perturb_file(options) if options.perturb else _build(options)
    except (ValueError, OSError) as error:
        print(f"data_gen.build: {error}", file=sys.stderr)
        sys.exit(2)


def _build(options: argparse.Namespace) -> None:
    if options.people is None or options.count is None:
        raise ValueError("expected --people and --count, for example --people=5 --count=1000.")
    if options.input:
        raise ValueError("expected --input only together with --perturb; --exclude names files to keep away from.")
    spec = PuzzleSpec(
        people=options.people,
        depth=options.depth,
        width=options.width,
        operators=EQUAL_SHARES if options.operators is None else tuple(_weights(options.operators, "--operators")),
        hardness=None if options.hardness is None else _span(options.hardness),
        wording=options.wording,
        unique=options.unique,
    )
    splits = None if options.splits is None else _weights(options.splits, "--splits")
    tally = Counter()
    puzzles = generate(spec, options.seed, options.count, read_forms(options.exclude), options.start, tally)
    began = time.perf_counter()
    statistics = Statistics()
    files = _write(Path(options.output), statistics.watch(puzzles), splits, options.seed)
    seconds = time.perf_counter() - began
    for path, count in files:
        print(f"{count} puzzles in {path}")
    print(f"{statistics.count / seconds:.0f} puzzles a second ({seconds:.2f} s)")
    print(statistics.report(tally))


def _write(path: Path, puzzles: Iterable[Puzzle], splits: list | None, seed: int) -> list[tuple[Path, int]]:
    """(file, puzzles in it) for the one file, or for one file a split."""
    if splits is None:
        return [(path, write_jsonl(path, map(to_record, puzzles)))]
    parts: dict[str, list[dict]] = {name: [] for name, _ in splits}
    for puzzle in puzzles:
        parts[split_of(canonical(puzzle.statements), seed, splits)].append(to_record(puzzle))
    stem = path.with_suffix("") if path.suffix == ".jsonl" else path
    named = [(stem.with_name(f"{stem.name}.{name}.jsonl"), records) for name, records in parts.items()]
    return [(file, write_jsonl(file, records)) for file, records in named]


def _perturb_file(options: argparse.Namespace) -> None:
    if not options.input:
        raise ValueError("expected --input=FILE with the puzzles to change together with --perturb.")
    changed, unchangeable = [], 0
    for puzzle in read_puzzles(options.input):
        try:
            changed.append(to_record(perturb(puzzle, options.perturb, options.seed, options.wording)))
        except ValueError:
            unchangeable += 1
    count = write_jsonl(options.output, changed)
    print(f"{count} puzzles with another {options.perturb} in {options.output}, {unchangeable} left out")


class Statistics:
    """What a build looks like, gathered while the puzzles pass."""

    def __init__(self) -> None:
        self.count = 0
        self.tops: Counter[str] = Counter()
        self.operators: Counter[str] = Counter()
        self.hardness: Counter[int] = Counter()
        self.answers: Counter[tuple[bool, ...]] = Counter()

    def watch(self, puzzles: Iterable[Puzzle]) -> Iterator[Puzzle]:
        """The same puzzles, counted."""
        for puzzle in puzzles:
            self.count += 1
            self.hardness[puzzle.hardness] += 1
            self.answers[puzzle.solution] += 1
            self.tops.update(statement[0] for statement in puzzle.statements)
            for statement in puzzle.statements:
                self._count(statement)
            yield puzzle

    def _count(self, statement: Statement) -> None:
        self.operators[statement[0]] += 1
        if statement[0] not in LEAVES:
            for part in statement[1:]:
                self._count(part)

    def report(self, tally: Counter) -> str:
        """The lines that a build ends with; `tally` is the one that `generate` filled."""
        if not self.count:
            return "no puzzle drawn"
        honest = sum(count for answer, count in self.answers.items() if all(answer))
        usual, most = self.answers.most_common(1)[0]
        guess = ", ".join("truth" if told else "lie" for told in usual)
        return "\n".join(
            [
                f"at the top of a statement: {_shares(self.tops)}",
                f"anywhere: {_shares(self.operators)}",
                "hardness: " + ", ".join(f"{value}: {count}" for value, count in sorted(self.hardness.items())),
                f"acceptance: {tally['found'] / tally['draws']:.3f} of all draws have one answer and the wanted "
                f"hardness; {tally['repeats']} repeats or excluded left out",
                f"constant guess: everybody honest is right in {honest / self.count:.3f}, the most frequent answer "
                f"({guess}) in {most / self.count:.3f}",
            ]
        )


def _shares(counts: Counter[str]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{name} {counts[name] / total:.3f}" for name in OPERATORS)


def _weights(text: str, option: str) -> list[tuple[str, float]]:
    """ "and=2,or=1" -> [("and", 2.0), ("or", 1.0)]"""
    pairs = []
    for item in text.split(","):
        name, _, weight = item.partition("=")
        try:
            pairs.append((name.strip(), float(weight)))
        except ValueError:
            raise ValueError(f"expected {option} as NAME=NUMBER,NAME=NUMBER,..., got {item!r}.") from None
    return pairs


def _span(text: str) -> tuple[int, int]:
    low, _, high = text.partition(":")
    try:
        return int(low), int(high or low)
    except ValueError:
        raise ValueError(f"expected --hardness as LOW:HIGH, for example 4:8, got {text!r}.") from None


if __name__ == "__main__":
    main()

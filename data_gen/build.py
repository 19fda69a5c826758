"""Write knights-and-knaves puzzles to a file.

python -m data_gen.build --people=5 --count=1000 --seed=0 --output=puzzles.jsonl
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data_gen.canonical import canonical, split_of
from data_gen.command_parser import CommandParser
from data_gen.dataset import read_forms, read_puzzles, write_jsonl
from data_gen.generate import generate
from data_gen.perturb import KINDS, perturb
from data_gen.puzzle import LEAVES, OPERATORS, Puzzle, Statement, to_record
from data_gen.spec import EQUAL_SHARES, PuzzleSpec


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser("data_gen.build", __doc__)
    add = parser.add_argument
    add("--output", required=True, metavar="FILE", help="the file to write, with one JSON object per line")
    add("--people", type=int, help="2 to 12")
    add("--count", type=int, help="number of puzzles (with --splits: in all splits together)")
    add("--seed", type=int, default=0, help="(0)")
    add("--start", type=int, default=0, help="index of the first puzzle, so that a file can continue another one (0)")
    add("--depth", type=int, default=2, help="maximum nesting of operators, 1 to 4 (2)")
    add("--width", type=int, default=2, help='maximum number of operands of "and" and "or" (2)')
    add(
        "--operators",
        metavar="NAME=WEIGHT,...",
        help=f"sampling weights of {', '.join(OPERATORS)}; 0 for those that are not given",
    )
    add("--hardness", metavar="LOW:HIGH", help="keep puzzles for which a simple solver opens this many branches")
    add("--wording", choices=("varied", "plain"), default="varied", help="(varied)")
    add("--unique", choices=("canonical", "text"), default="canonical", help="which puzzles are equal (canonical)")
    add(
        "--exclude",
        nargs="*",
        default=[],
        metavar="FILE",
        help="leave out puzzles that are in these files, up to renaming people",
    )
    add("--splits", metavar="NAME=SHARE,...", help="one file per split (FILE.NAME.jsonl), chosen by canonical form")
    add("--perturb", choices=KINDS, help="change each puzzle of --input instead of generating new ones")
    add("--input", metavar="FILE", help="the puzzles to change")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 2, after one sentence on stderr, for wrong flags and files."""
    try:
        options = make_parser().parse_args(sys.argv[1:] if argv is None else argv)
        _perturb_file(options) if options.perturb else _build(options)
    except SystemExit as ended:  # --help
        return ended.code or 0
    except (ValueError, OSError) as error:
        print(f"data_gen.build: {error}", file=sys.stderr)
        return 2
    return 0


def _build(options: argparse.Namespace) -> None:
    if options.people is None or options.count is None:
        raise ValueError("expected --people and --count, for example --people=5 --count=1000.")
    if options.input:
        raise ValueError("expected --input only with --perturb; for puzzles to leave out use --exclude.")
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
    print(f"{statistics.count / seconds:.0f} puzzles per second ({seconds:.2f} s)")
    print(statistics.report(tally))


def _write(path: Path, puzzles: Iterable[Puzzle], splits: list | None, seed: int) -> list[tuple[Path, int]]:
    """(file, number of puzzles) for the file, or for one file per split."""
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
        raise ValueError("expected --input=FILE, the puzzles to change, with --perturb.")
    changed, unchangeable = [], 0
    for puzzle in read_puzzles(options.input):
        try:
            changed.append(to_record(perturb(puzzle, options.perturb, options.seed, options.wording)))
        except ValueError:
            unchangeable += 1
    count = write_jsonl(options.output, changed)
    print(f"{count} puzzles with another {options.perturb} in {options.output}, {unchangeable} left out")


class Statistics:
    """Statistics of the puzzles of a build."""

    def __init__(self) -> None:
        self.count = 0
        self.tops: Counter[str] = Counter()
        self.operators: Counter[str] = Counter()
        self.hardness: Counter[int] = Counter()
        self.answers: Counter[tuple[bool, ...]] = Counter()

    def watch(self, puzzles: Iterable[Puzzle]) -> Iterator[Puzzle]:
        """Yield the same puzzles and count them."""
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
        """The statistics as text; `tally` was filled by `generate`."""
        if not self.count:
            return "no puzzle was generated"
        honest = sum(count for answer, count in self.answers.items() if all(answer))
        usual, most = self.answers.most_common(1)[0]
        guess = ", ".join("truth" if is_truthful else "lie" for is_truthful in usual)
        return "\n".join(
            [
                f"at the top of a statement: {_shares(self.tops)}",
                f"anywhere: {_shares(self.operators)}",
                "hardness: " + ", ".join(f"{value}: {count}" for value, count in sorted(self.hardness.items())),
                f"acceptance: {tally['found'] / tally['attempts']:.3f} of all candidates have one solution and the "
                f"requested hardness; {tally['repeats']} repeated or excluded puzzles left out",
                f"constant answers: everybody honest is correct in {honest / self.count:.3f}, the most frequent answer "
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
    sys.exit(main())

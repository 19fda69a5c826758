"""Write knights-and-knaves puzzles to a file.

    python -m data_gen.build --people=5 --count=1000 --seed=0 --output=puzzles.jsonl
    python -m data_gen.build --people=3 --count=500 --wording=varied --names=world --output=robustness.jsonl
    python -m data_gen.build --perturb=statement --input=puzzles.jsonl --output=perturbed.jsonl
    python -m data_gen.build --input=puzzles.jsonl --format=published --output=puzzles.parquet

--format=published has the columns of the data set K-and-K/knights-and-knaves, which Hugging Face datasets can load, as
JSON lines or parquet: quiz, names, knight_knave, solution, solution_text, statements, index. Files of both formats can
be given to --input and --exclude, to jaxrl.evaluate --data, and to the task "puzzle_files".
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from data_gen.canonical import canonical, split_of
from data_gen.command_parser import CommandParser
from data_gen.dataset import FORMATS, check_writable, read_forms, read_puzzles, write_puzzles
from data_gen.generate import generate
from data_gen.perturb import KINDS, Writing, perturb
from data_gen.puzzle import Puzzle
from data_gen.puzzle_flags import DEFAULTS, add_puzzle_flags, named_numbers, puzzle_fields
from data_gen.spec import PuzzleSpec
from data_gen.statistics import Statistics

# Flags that describe new puzzles; the others can be given beside --input.
_GENERATOR_FLAGS = ("people", "count", "start", "depth", "width", "operators", "hardness", "unique", "splits")


def make_parser() -> CommandParser:
    """The flags of the command. Those of new puzzles are None unless they are given."""
    parser = CommandParser("data_gen.build", __doc__)
    add = parser.add_argument
    add("--output", required=True, metavar="FILE", help="the file to write: JSON lines, or parquet if it ends so")
    add("--format", choices=FORMATS, help="of the output (puzzles; published for parquet)")
    _add_generator_flags(parser.add_argument_group("new puzzles"))
    add_puzzle_flags(parser.add_argument_group("kind of puzzles"))
    _add_file_flags(parser.add_argument_group("puzzles of a file"))
    return parser


def _add_generator_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--people", type=int, help="2 to 12")
    add("--count", type=int, help="number of puzzles (with --splits: in all splits together)")
    add("--seed", type=int, help="of new puzzles, splits and perturbations (0)")
    add("--start", type=int, help="index of the first puzzle, so that a file can continue another one (0)")
    add("--unique", choices=("canonical", "text"), help="which puzzles are equal (canonical)")
    add("--splits", metavar="NAME=SHARE,...", help="one file per split (FILE.NAME.jsonl), chosen by canonical form")
    add(
        "--exclude",
        nargs="*",
        default=[],
        metavar="FILE",
        help="leave out puzzles that are in these files, up to renaming people",
    )


def _add_file_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--input", metavar="FILE", help="write the puzzles of this file instead of new ones, changed by --perturb")
    add(
        "--perturb",
        choices=KINDS,
        help="one change to each puzzle of --input: another statement or leaf (claim), which gives another solution; "
        "another order of speaking; other names or role words; role words flipped. The rest of the text stays the same "
        "unless --wording is given",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 2, after one sentence on stderr, for wrong flags and files."""
    try:
        options = make_parser().parse_args(sys.argv[1:] if argv is None else argv)
        options.format = options.format or ("published" if options.output.endswith(".parquet") else "puzzles")
        check_writable(options.output, options.format)
        if options.perturb:
            _perturb_file(options)
        elif options.input:
            _convert_file(options)
        else:
            _build(options)
    except SystemExit as ended:  # --help
        return ended.code or 0
    except (ValueError, OSError) as error:
        print(f"data_gen.build: {error}", file=sys.stderr)
        return 2
    return 0


def _build(options: argparse.Namespace) -> None:
    if options.people is None or options.count is None:
        raise ValueError("expected --people and --count, for example --people=5 --count=1000.")
    spec = PuzzleSpec(options.people, unique=options.unique or DEFAULTS.unique, **puzzle_fields(options))
    splits = None if options.splits is None else named_numbers(options.splits, "--splits")
    tally = Counter()
    exclude = read_forms(options.exclude)
    puzzles = generate(spec, options.seed or 0, options.count, exclude, options.start or 0, tally)
    began = time.perf_counter()
    statistics = Statistics()
    files = _write(options, statistics.watch(puzzles), splits)
    seconds = time.perf_counter() - began
    for path, count in files:
        print(f"{count} puzzles in {path}")
    print(f"{statistics.count / seconds:.0f} puzzles per second ({seconds:.2f} s)")
    print(statistics.report(tally))


def _write(options: argparse.Namespace, puzzles: Iterable[Puzzle], splits: list | None) -> list[tuple[Path, int]]:
    """(file, number of puzzles) for the output, or for one file per split."""
    path, form = Path(options.output), options.format
    if splits is None:
        return [(path, write_puzzles(path, puzzles, form))]
    parts: dict[str, list[Puzzle]] = {name: [] for name, _ in splits}
    for puzzle in puzzles:
        parts[split_of(canonical(puzzle.statements), options.seed or 0, splits)].append(puzzle)
    ending = path.suffix if path.suffix in (".jsonl", ".parquet") else ""
    stem = path.name.removesuffix(ending)
    files = [(path.with_name(f"{stem}.{name}{ending or '.jsonl'}"), part) for name, part in parts.items()]
    return [(file, write_puzzles(file, part, form)) for file, part in files]


def _perturb_file(options: argparse.Namespace) -> None:
    if not options.input:
        raise ValueError("expected --input=FILE, the puzzles to change, with --perturb.")
    _refuse(options, _GENERATOR_FLAGS, "--perturb, which changes the puzzles of --input")
    if options.names and options.perturb != "names":
        raise ValueError("expected --names only with --perturb=names, which replaces names.")
    if options.first_person is not None and not options.wording:
        raise ValueError("expected --first-person with --perturb only beside --wording, which writes all texts again.")
    writing = Writing(options.wording, bool(options.first_person)) if options.wording else None
    exclude = read_forms(options.exclude)
    changed, reasons = [], []
    for puzzle in read_puzzles(options.input):
        try:
            other = perturb(
                puzzle, options.perturb, options.seed or 0, writing, options.names, lambda form: form not in exclude
            )
        except ValueError as error:
            reasons.append(str(error))
        else:
            changed.append(other)
    if not changed:
        raise ValueError(
            f"{options.input}: no puzzle can be changed ({reasons[0] if reasons else 'the file is empty'})"
        )
    count = write_puzzles(options.output, changed, options.format)
    left_out = f"{len(reasons)} left out" + (f", the first because: {reasons[0]}" if reasons else "")
    print(f"{count} puzzles changed by {options.perturb} in {options.output}, {left_out}")


def _convert_file(options: argparse.Namespace) -> None:
    """Write the puzzles of a file in another format."""
    flags = (*_GENERATOR_FLAGS, "seed", "wording", "names", "first_person", "exclude")
    _refuse(options, flags, "--input, whose puzzles are only written in another format; --perturb changes them")
    count = write_puzzles(options.output, read_puzzles(options.input), options.format)
    print(f"{count} puzzles in {options.output}")


def _refuse(options: argparse.Namespace, flags: Sequence[str], beside: str) -> None:
    """Raises ValueError for the first of the flags that was given."""
    given = [flag for flag in flags if getattr(options, flag) not in (None, [])]
    if given:
        raise ValueError(f"expected no --{given[0].replace('_', '-')} beside {beside}.")


if __name__ == "__main__":
    sys.exit(main())

"""Write the report of runs, or of evaluations, as one HTML page.

python -m jaxrl.report --workdir=runs/three_stage
python -m jaxrl.report --evaluation=evaluations/before.json --evaluation=evaluations/after.json
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxrl.command_line import CommandParser, run
from jaxrl.evaluation.results import EvaluationResult, from_json
from jaxrl.reporting.curves import curves_svg
from jaxrl.reporting.files import write_text
from jaxrl.reporting.page import write_page
from jaxrl.reporting.page_groups import BUDGET_BYTES
from jaxrl.reporting.run_folder import read_run


def read_evaluation(path: str) -> EvaluationResult:
    """The evaluation in a file that `jaxrl.evaluate --output` wrote. Raises ValueError for any other file."""
    try:
        return from_json(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def make_parser() -> CommandParser:
    """The flags of the command."""
    parser = CommandParser("jaxrl.report", __doc__)
    parser.add_argument(
        "--workdir",
        action="append",
        default=[],
        metavar="RUN",
        help="the run folder; may be repeated to plot further runs over the first one",
    )
    parser.add_argument(
        "--evaluation",
        action="append",
        default=[],
        metavar="FILE.json",
        help="a file of `jaxrl.evaluate --output`, shown instead of the run's own evaluations; of two, the second is "
        "compared with the first. Needs no --workdir",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.html",
        help="default: report.html in the first run folder, or the first evaluation's name with .html",
    )
    parser.add_argument("--curves", metavar="FILE.svg", help="also write the four main curves as a picture")
    parser.add_argument(
        "--megabytes",
        type=float,
        default=BUDGET_BYTES / 1e6,
        help="limit of model text in the page, before compression (default: 20)",
    )
    return parser


def report(given: argparse.Namespace) -> None:
    """Run the command. Raises ValueError and OSError with one sentence each."""
    if not given.workdir and (not given.evaluation or given.curves):
        raise ValueError("expected a --workdir (or an --evaluation, without --curves).")
    first = Path((given.workdir or given.evaluation)[0])
    default = first / "report.html" if given.workdir else first.with_suffix(".html")
    runs = [read_run(workdir) for workdir in given.workdir]
    evaluations = [read_evaluation(path) for path in given.evaluation]
    page = write_page(given.output or default, runs, int(given.megabytes * 1e6), evaluations=evaluations)
    print(f"report: {page} ({page.stat().st_size / 1e6:.1f} MB)")
    if given.curves:
        print(f"curves: {write_text(given.curves, curves_svg(runs[0]))}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run(make_parser(), report, argv)


if __name__ == "__main__":
    sys.exit(main())

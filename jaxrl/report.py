"""Writes the report of a run: `python -m jaxrl.report --workdir=runs/three_stage`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxrl.evaluation.results import EvaluationResult, from_json
from jaxrl.reporting.curves import curves_svg
from jaxrl.reporting.files import write_text
from jaxrl.reporting.page import write_page
from jaxrl.reporting.page_groups import BUDGET_BYTES
from jaxrl.reporting.run_folder import read_run


def read_evaluation(path: str) -> EvaluationResult:
    """The evaluation in a file that `jaxrl.evaluate --output` wrote. ValueError where it holds something else."""
    try:
        return from_json(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m jaxrl.report", description=__doc__)
    again = "the run folder; given again, the curves of that run are laid over the first one's"
    parser.add_argument("--workdir", action="append", default=[], metavar="RUN", help=again)
    beside = (
        "a file of `jaxrl.evaluate --output`, shown in place of the run's own evaluations; of two, the second "
        "is compared with the first. Needs no --workdir"
    )
    parser.add_argument("--evaluation", action="append", default=[], metavar="FILE.json", help=beside)
    where = "default: report.html in the first run folder, else the first evaluation's name with .html"
    parser.add_argument("--output", type=Path, metavar="FILE.html", help=where)
    parser.add_argument("--curves", metavar="FILE.svg", help="also write the four main curves as a picture")
    megabytes = "how much text of the model the page may hold, before it is packed (default: 20)"
    parser.add_argument("--megabytes", type=float, default=BUDGET_BYTES / 1e6, help=megabytes)
    given = parser.parse_args(arguments)
    if not given.workdir and (not given.evaluation or given.curves):
        parser.error("expected a --workdir (or an --evaluation, without --curves).")
    if not given.output:
        given.output = (Path(given.workdir[0]) / "report.html" if given.workdir
                        else Path(given.evaluation[0]).with_suffix(".html"))  # fmt: skip
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 after one sentence on stderr."""
    given = _parse(arguments)
    try:
        runs = [read_run(workdir) for workdir in given.workdir]
        evaluations = [read_evaluation(path) for path in given.evaluation]
        page = write_page(given.output, runs, int(given.megabytes * 1e6), evaluations=evaluations)
        print(f"report: {page} ({page.stat().st_size / 1e6:.1f} MB)")
        if given.curves:
            print(f"curves: {write_text(given.curves, curves_svg(runs[0]))}")
    except (OSError, ValueError) as error:
        print(f"jaxrl.report: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Writes the report of a run: `python -m jaxrl.report --workdir=runs/three_stage`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxrl.reporting.curves import curves_svg
from jaxrl.reporting.files import write_text
from jaxrl.reporting.page import write_page
from jaxrl.reporting.run_folder import read_run


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 after one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m jaxrl.report", description=__doc__)
    again = "the run folder; given again, the curves of that run are laid over the first one's"
    parser.add_argument("--workdir", action="append", required=True, metavar="RUN", help=again)
    parser.add_argument("--output", metavar="FILE.html", help="default: report.html in the first run folder")
    parser.add_argument("--curves", metavar="FILE.svg", help="also write the four main curves as a picture")
    megabytes = "how much text of the model the page may hold (default: 12)"
    parser.add_argument("--megabytes", type=float, default=12.0, help=megabytes)
    options = parser.parse_args(arguments)
    try:
        runs = [read_run(workdir) for workdir in options.workdir]
        page = write_page(
            options.output or Path(options.workdir[0]) / "report.html", runs, int(options.megabytes * 1e6)
        )
        print(f"report: {page} ({page.stat().st_size / 1e6:.1f} MB)")
        if options.curves:
            print(f"curves: {write_text(options.curves, curves_svg(runs[0]))}")
    except (OSError, ValueError) as error:
        print(f"jaxrl.report: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

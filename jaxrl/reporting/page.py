"""The report: one HTML file with everything in it, that asks the network for nothing."""

import base64
import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path

import jinja2
from plotly.offline import get_plotlyjs

from jaxrl.evaluation.results import EvaluationResult
from jaxrl.reporting.files import write_text
from jaxrl.reporting.page_data import page_data
from jaxrl.reporting.page_groups import BUDGET_BYTES
from jaxrl.reporting.run_folder import Run

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("base.js", "plots.js", "results.js", "texts.js", "main.js")


def render_page(
    runs: Sequence[Run],
    budget_bytes: int = BUDGET_BYTES,
    title: str = "",
    evaluations: Sequence[EvaluationResult] = (),
) -> str:
    """The page of the first run, with the curves of the others laid over its own. title: default its folder's name.

    evaluations: shown in place of those in the first run's folder; with them no run is needed. Text of the model
    reaches the page only packed, and the script only ever sets it as text. ValueError when the first run has no
    steps yet, or there is nothing to show.
    """
    if not runs and not evaluations:
        raise ValueError("a page needs a run or an evaluation, got neither")
    if runs and not runs[0].records:
        raise ValueError(f"{runs[0].workdir} has no steps yet; train first")
    data = page_data(runs, budget_bytes, title, evaluations)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("page.html").render(
        title=data["title"],
        data=packed(json.dumps(data, ensure_ascii=False, allow_nan=False, default=str, separators=(",", ":"))),
        style=(TEMPLATES / "page.css").read_text(encoding="utf-8"),
        script="\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in SCRIPTS),
        plotly=packed(get_plotlyjs()),
    )


def write_page(
    path: str | os.PathLike[str],
    runs: Sequence[Run],
    budget_bytes: int = BUDGET_BYTES,
    title: str = "",
    evaluations: Sequence[EvaluationResult] = (),
) -> Path:
    """Renders and writes the page, atomically."""
    return write_text(path, render_page(runs, budget_bytes, title, evaluations))


def packed(text: str) -> str:
    """Text as gzip in base64: a quarter of the size, and no letter of it can end the element that it stands in."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()

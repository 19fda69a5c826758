"""The report: one self-contained HTML file that makes no network requests."""

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
from jaxrl.reporting.run_folder import RunFolder

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("base.js", "plots.js", "results.js", "texts.js", "main.js")


def render_page(
    runs: Sequence[RunFolder],
    budget_bytes: int = BUDGET_BYTES,
    title: str = "",
    evaluations: Sequence[EvaluationResult] = (),
) -> str:
    """The report of the first run, overlaid with the curves of the others.

    title: the default is the name of the run folder. evaluations: replace those in the first run's folder; with them,
    `runs` may be empty. Text of the model is embedded compressed, and the scripts insert it only as text, so that it
    can't inject HTML. Raises ValueError if the first run has no steps, or without runs and evaluations.
    """
    if not runs and not evaluations:
        raise ValueError("expected a run or an evaluation, got neither; pass a run folder")
    if runs and not runs[0].records:
        raise ValueError(f"expected a run with at least one step, got none in {runs[0].workdir}; train first")
    data = page_data(runs, budget_bytes, title, evaluations)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("page.html").render(
        title=data["title"],
        data=compress(json.dumps(data, ensure_ascii=False, allow_nan=False, default=str, separators=(",", ":"))),
        style=(TEMPLATES / "page.css").read_text(encoding="utf-8"),
        script="\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in SCRIPTS),
        plotly=compress(get_plotlyjs()),
    )


def write_page(
    path: str | os.PathLike[str],
    runs: Sequence[RunFolder],
    budget_bytes: int = BUDGET_BYTES,
    title: str = "",
    evaluations: Sequence[EvaluationResult] = (),
) -> Path:
    """Renders the report and writes it atomically."""
    return write_text(path, render_page(runs, budget_bytes, title, evaluations))


def compress(text: str) -> str:
    """Text as gzip in base64: a quarter of the size, and without characters that could end an HTML element."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()

"""The report: one HTML file with everything in it, that asks the network for nothing."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import jinja2
from plotly.offline import get_plotlyjs

from jaxrl.reporting.files import write_text
from jaxrl.reporting.page_data import BUDGET_BYTES, page_data
from jaxrl.reporting.run_folder import Run

TEMPLATES = Path(__file__).parent / "templates"
# Inside <script type="application/json"> only "<" could end the element; the line separators break older
# readers.
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def render_page(runs: Sequence[Run], budget_bytes: int = BUDGET_BYTES, title: str = "") -> str:
    """The page of the first run, with the curves of the others laid over its own. title: default its folder's name.

    Text of the model reaches the page only as JSON whose "<" is escaped, and the script only ever sets it as
    text. ValueError when the first run has no steps yet.
    """
    if not runs[0].records:
        raise ValueError(f"{runs[0].workdir} has no steps yet; train first")
    data = page_data(runs, budget_bytes, title)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("page.html").render(
        title=data["title"],
        data=embedded_json(data),
        style=(TEMPLATES / "page.css").read_text(encoding="utf-8"),
        script=(TEMPLATES / "page.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
    )


def write_page(
    path: str | os.PathLike[str], runs: Sequence[Run], budget_bytes: int = BUDGET_BYTES, title: str = ""
) -> Path:
    """Renders and writes the page, atomically."""
    return write_text(path, render_page(runs, budget_bytes, title))


def embedded_json(data: object) -> str:
    """JSON that stays inside its script element whatever text it holds."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, default=str, separators=(",", ":"))
    for letter, escape in ESCAPES.items():
        text = text.replace(letter, escape)
    return text

"""Plot of a finished sweep: held-out accuracy by setting, with every seed, the mean and its interval."""

import html
import math
from collections.abc import Sequence

from jaxrl.evaluation.results import rows
from jaxrl.reporting.curves import STYLE, WIDTH, ticks
from jaxrl.sweeps.table import Outcome, before_and_after, mean_accuracy

LEFT, RIGHT, TOP, LINE = 190, 24, 44, 34  # left margin (labels), right margin, top margin, height of a row
SEED_STYLE = """
.before { fill: #9aa1ab } .seed { fill: #2a78d6; fill-opacity: .45 } .mean { fill: #2a78d6 }
.interval { stroke: #2a78d6; stroke-width: 2.2 }
"""


def sweep_svg(title: str, outcomes: Sequence[Outcome]) -> str:
    """The plot as SVG text, settings in the order of `outcomes`; empty if no run is finished.

    Accuracy over all kinds of problems, of sampled responses if there are any: small dots are seeds, the large dot is
    their mean with Student's 95 % interval (none for one seed), the grey dot is the mean before training.
    """
    results = before_and_after(outcomes)
    settings = list(dict.fromkeys(setting for setting, _, _ in outcomes if any(name == setting for name, _ in results)))
    if not settings:
        return ""
    bottom = TOP + LINE * len(settings)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 30}" role="img">',
        f"<title>{html.escape(title)}</title><style>{STYLE}{SEED_STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{bottom + 30}"/>',
        f'<text class="title" x="12" y="22">{html.escape(title)}: held-out accuracy, before (grey) and after</text>',
    ]
    for value in ticks(0.0, 1.0):
        parts.append(f'<path class="grid" d="M{_x(value):.1f} {TOP}V{bottom}"/>')
        parts.append(f'<text x="{_x(value):.1f}" y="{bottom + 18}" text-anchor="middle">{value:.0%}</text>')
    for index, setting in enumerate(settings):
        pairs = [[rows(result)[-1] for result in pair] for (name, _), pair in results.items() if name == setting]
        before, after = zip(*pairs, strict=True)
        parts += _setting(
            setting,
            TOP + LINE * (index + 0.5),
            mean_accuracy(before).value,
            [row.accuracy.value for row in after],
            mean_accuracy(after),
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _setting(name, y, before, seeds, mean) -> list[str]:
    parts = [
        f'<text x="{LEFT - 12}" y="{y + 4:.1f}" text-anchor="end">{html.escape(name)} (n = {len(seeds)})</text>',
        f'<circle class="before" cx="{_x(before):.1f}" cy="{y:.1f}" r="4"/>',
    ]
    if not math.isnan(mean.low):
        parts.append(f'<path class="interval" d="M{_x(mean.low):.1f} {y:.1f}H{_x(mean.high):.1f}"/>')
    parts += [f'<circle class="seed" cx="{_x(value):.1f}" cy="{y:.1f}" r="3"/>' for value in seeds]
    return [*parts, f'<circle class="mean" cx="{_x(mean.value):.1f}" cy="{y:.1f}" r="5"/>']


def _x(share: float) -> float:
    """Horizontal position of an accuracy in [0, 1]."""
    return LEFT + share * (WIDTH - LEFT - RIGHT)

"""The main curves of a run as one SVG picture: reward, accuracy, format errors and length, with stage bands."""

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

from jaxrl.reporting.metrics import is_finite
from jaxrl.reporting.run_folder import Band, RunFolder, stage_bands

WIDTH, HEIGHT, COLUMNS = 860, 470, 2
MARGIN, GAP, TITLE, TICKS = 46, 34, 24, 22  # around the picture, between panels, above and below a panel (pixels)
SOUND = ("share sound", "share/sound", "#b35c00")  # in the panel of the share correct
DASHED = 'stroke-dasharray="5 3"'
PICTURE_PANELS = (
    ("mean reward", "reward/mean", "#2a78d6", False),
    ("share correct", "share/correct", "#1a8f5a", True),
    ("share with a format error", "share/bad_format", "#d04a3b", True),
    ("mean response length (tokens)", "length/mean", "#8a55c8", False),
)
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #3b3f46 }
.title { font-size: 13px; font-weight: 600; fill: #16191d }
.grid { stroke: #d9dde3; stroke-width: 1 }
.band { fill: #16191d; fill-opacity: .045 }
.raw { fill: none; stroke-width: 1; stroke-opacity: .3 }
.line { fill: none; stroke-width: 2.2; stroke-linejoin: round }
.page { fill: #ffffff }
@media (prefers-color-scheme: dark) {
  text { fill: #b6bcc6 } .title { fill: #eef0f3 } .grid { stroke: #3a4049 } .page { fill: #14171b }
  .band { fill: #ffffff; fill-opacity: .06 }
}
"""


class Frame(NamedTuple):
    """Position and axis limits of a panel."""

    left: float
    top: float
    width: float
    height: float
    first: float
    last: float
    low: float
    high: float

    def x(self, step: float) -> float:
        return self.left + self.width * (step - self.first) / max(1e-12, self.last - self.first)

    def y(self, value: float) -> float:
        return self.top + self.height * (self.high - value) / max(1e-12, self.high - self.low)


def curves_svg(run: RunFolder, title: str = "") -> str:
    """The picture as SVG text. Raises ValueError for a run without steps."""
    steps = [int(record["step"]) for record in run.records]
    if not steps:
        raise ValueError(f"expected a run with at least one step, got none in {run.workdir}; train first")
    bands = stage_bands(run.records)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{html.escape(title or run.workdir.name)}</title><style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}"/>',
    ]
    width = (WIDTH - MARGIN - GAP - (COLUMNS - 1) * (GAP + 14)) / COLUMNS
    height = (HEIGHT - 2 * (TITLE + TICKS) - GAP) / 2
    for index, (label, name, colour, is_share) in enumerate(PICTURE_PANELS):
        points = _points(run, name)
        column, row = index % COLUMNS, index // COLUMNS
        left = MARGIN + column * (width + GAP + 14)
        top = TITLE + 8 + row * (height + TITLE + TICKS + 12)
        low, high = _limits([value for _, value in points], is_share)
        frame = Frame(left, top, width, height, min(steps), max(steps), low, high)
        parts += _panel(frame, label, points, colour, bands, is_share)
        if name == "share/correct" and (sound := _points(run, SOUND[1])):
            parts += _second_line(frame, sound)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _points(run: RunFolder, name: str) -> list[tuple[int, float]]:
    return [(int(record["step"]), float(record[name])) for record in run.records if is_finite(record.get(name))]


def _second_line(frame: Frame, points: Sequence[tuple[int, float]]) -> list[str]:
    """The share sound, dashed, with its name at the right of the panel's title."""
    label, _, colour = SOUND
    right, top = frame.left + frame.width, frame.top - 12
    return [
        f'<path d="M{right - 100:.1f} {top:.1f}h20" stroke="{colour}" stroke-width="2.2" {DASHED}/>',
        f'<text x="{right - 74:.1f}" y="{top + 4:.1f}">{label}</text>',
        *_lines(frame, points, colour, DASHED),
    ]


def moving_average(values: Sequence[float], window: int) -> list[float]:
    """Centred moving average over up to `window` values; the window is truncated at the ends."""
    half = window // 2
    spans = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(span) / len(span) for span in spans]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from low to high, spaced by 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _limits(values: Sequence[float], is_share: bool) -> tuple[float, float]:
    """Lower and upper axis limit; the margin above the curve is for the names of the stages."""
    if not values:
        return 0.0, 1.0
    low, high = (0.0, max(0.1, max(values))) if is_share else (min(values), max(values))
    span = (high - low) or 1.0
    return (low if is_share else low - 0.06 * span), high + 0.16 * span


def _panel(
    frame: Frame,
    label: str,
    points: Sequence[tuple[int, float]],
    colour: str,
    bands: Sequence[Band],
    is_share: bool,
) -> list[str]:
    bottom = frame.top + frame.height
    parts = [f'<text class="title" x="{frame.left:.1f}" y="{frame.top - 8:.1f}">{html.escape(label)}</text>']
    for number, band in enumerate(bands):
        left, right = frame.x(max(frame.first, band.first - 0.5)), frame.x(min(frame.last, band.last + 0.5))
        if number % 2 == 0:
            parts.append(
                f'<rect class="band" x="{left:.1f}" y="{frame.top:.1f}" width="{right - left:.1f}" '
                f'height="{frame.height:.1f}"/>'
            )
        middle = (left + right) / 2
        parts.append(f'<text x="{middle:.1f}" y="{frame.top + 14:.1f}" text-anchor="middle">'
                     f"{html.escape(band.stage)}</text>")  # fmt: skip
    for value in ticks(frame.low, frame.high - 0.12 * (frame.high - frame.low), 4):
        y, shown = frame.y(value), f"{value:.0%}" if is_share else f"{value:g}"
        parts.append(f'<path class="grid" d="M{frame.left:.1f} {y:.1f}h{frame.width:.1f}"/>')
        parts.append(f'<text x="{frame.left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{shown}</text>')
    for step in ticks(frame.first, frame.last, 5):
        if step == int(step):
            x = frame.x(step)
            parts.append(f'<text x="{x:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{step:g}</text>')
    if not points:
        parts.append(f'<text x="{frame.left + 8:.1f}" y="{bottom - 8:.1f}">not measured</text>')
        return parts
    return parts + _lines(frame, points, colour)


def _lines(frame: Frame, points: Sequence[tuple[int, float]], colour: str, look: str = "") -> list[str]:
    """Single steps as a thin line, and their moving average as a thick one."""
    smooth, parts = moving_average([value for _, value in points], max(1, len(points) // 20)), []
    for kind, values in (("raw", [value for _, value in points]), ("line", smooth)):
        points_of_line = zip((step for step, _ in points), values, strict=True)
        path = " ".join(f"{frame.x(step):.1f},{frame.y(value):.1f}" for step, value in points_of_line)
        parts.append(f'<polyline class="{kind}" stroke="{colour}" {look} points="{path}"/>')
    return parts

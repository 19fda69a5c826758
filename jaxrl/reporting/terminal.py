"""Progress of a run: a live panel on a terminal, plain lines elsewhere."""

import itertools
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jaxrl.reporting.metrics import is_finite

BARS = "▁▂▃▄▅▆▇█"
CURVES = (
    ("reward", "reward/mean", "{:+.2f}"),
    ("accuracy", "share/correct", "{:.1%}"),
    ("sound", "share/sound", "{:.1%}"),
    ("format errors", "share/bad_format", "{:.1%}"),
    ("mean length", "length/mean", "{:.0f}"),
)
OPTIONAL = {"share/sound"}  # curves that are shown only if the run measures them
KEPT_STEPS = 4096  # for the sparklines; metrics.jsonl has all steps


class Terminal:
    """Shows the progress of a run. Use it as a context manager; all methods are cheap.

    Call `stage(name, first, last)` at the start of a stage, `phase(name, done, total)` within a step, `step(record)`
    after a step, and `log(sentence)` for any other message. Steps count from 1 over all stages.
    """

    def __init__(
        self,
        total_steps: int,
        title: str = "jaxrl",
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total_steps, self.title, self.clock = total_steps, title, clock
        self.console = console or Console()
        self.stage_name, self.stage_steps = "", (0, 0)
        self.phase_name, self.phase_done, self.phase_total = "starting", 0, 0
        self.current_step = 0
        self.compiling = False  # whether the run waits for the compiler now
        self.series: dict[str, deque[float]] = {name: deque(maxlen=KEPT_STEPS) for _, name, _ in CURVES}
        self.durations: deque[float] = deque(maxlen=20)
        self.started = self.last_step_at = clock()
        self._live: Live | None = None

    def __enter__(self) -> "Terminal":
        self.started = self.last_step_at = self.clock()
        if self.console.is_terminal:
            self._live = Live(get_renderable=self.render, console=self.console, refresh_per_second=2, transient=False)
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def stage(self, name: str, first: int, last: int) -> None:
        """Starts a stage of steps `first` to `last`."""
        self.stage_name, self.stage_steps = name, (first, last)
        self.last_step_at = self.clock()
        if self._live is None:
            self._line(f"stage {name}: steps {first} to {last} of {self.total_steps}")

    def phase(self, name: str, done: int = 0, total: int = 0) -> None:
        """Sets the current phase and its progress. total: 0 if unknown."""
        self.phase_name, self.phase_done, self.phase_total = name, done, total

    def step(self, record: Mapping[str, object]) -> None:
        """Adds a finished step to the curves and to the time estimate, and logs its warnings."""
        now = self.clock()
        if record["step"] > 0:
            self.durations.append(now - self.last_step_at)
        self.last_step_at, self.current_step = now, int(record["step"])
        for _, name, _ in CURVES:
            if is_finite(record.get(name)):
                self.series[name].append(float(record[name]))
        if self._live is None:
            self._line(self.plain_line(record))
        for warning in record.get("warnings", ()):
            self.log(f"warning: {warning}")

    def log(self, sentence: str) -> None:
        """Prints a sentence above the panel, without interpreting markup."""
        if self._live is None:
            self._line(sentence)
        else:
            self.console.print(Text(sentence))

    def seconds_left(self) -> float | None:
        """Estimated remaining seconds, from the median of the last 20 step times; None before the first step."""
        if not self.durations:
            return None
        return statistics.median(self.durations) * max(0, self.total_steps - self.current_step)

    def plain_line(self, record: Mapping[str, object]) -> str:
        """A step as one line of text."""
        parts = [f"step {record['step']}/{self.total_steps}"]
        if self.stage_name:
            parts.insert(0, self.stage_name)
        for label, name, form in CURVES:
            if name in OPTIONAL and name not in record:
                continue
            value = record.get(name)
            parts.append(f"{label} {form.format(value) if is_finite(value) else value if value is not None else '-'}")
        left = self.seconds_left()
        if self.durations and record["step"] > 0:
            parts.append(f"{record.get('time/step', self.durations[-1]):.1f} s")  # excludes evaluation and checkpoint
        parts.append(f"ETA {duration(left)}")
        return "  ".join(parts)

    def render(self) -> RenderableType:
        """The current panel."""
        first, last = self.stage_steps
        head = Table.grid(padding=(0, 2))  # fits into 80 columns
        head.add_row(
            Text(f"{self.stage_name} ({first} to {last})" if last else self.title, style="bold"),
            Text(f"step {self.current_step} of {self.total_steps}"),
            Text(f"ETA {duration(self.seconds_left())}"),
            Text(f"running {duration(self.clock() - self.started)}", style="dim"),
        )
        phase = Table.grid(padding=(0, 2))
        count = f"{self.phase_done}/{self.phase_total}" if self.phase_total else ""
        bar = ProgressBar(
            total=self.phase_total or None, completed=self.phase_done, width=30, pulse=not self.phase_total
        )
        phase.add_row(Text(f"{'compiling' if self.compiling else self.phase_name:<12}"), bar, Text(count, style="dim"))
        curves = Table.grid(padding=(0, 2))
        width = max(10, min(60, self.console.width - 34))
        for label, name, form in CURVES:
            values = self.series[name]
            if name in OPTIONAL and not values:
                continue
            shown = form.format(values[-1]) if values else "-"
            curves.add_row(
                label,
                Text(shown, justify="right", style="bold"),
                Text(sparkline(values, width), style="cyan"),
            )
        return Panel(Group(head, phase, curves), title=Text(self.title), title_align="left")

    def _line(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as a row of at most `width` bars; each bar is the mean of consecutive values."""
    values = list(values)
    if not values:
        return ""
    bars = min(width, len(values))
    edges = [round(i * len(values) / bars) for i in range(bars + 1)]
    means = [statistics.fmean(values[a:b]) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    if high == low:
        return BARS[3] * bars
    return "".join(BARS[min(7, int((mean - low) / (high - low) * 8))] for mean in means)


def duration(seconds: float | None) -> str:
    """4210 -> "1 h 10 min"; "-" for None."""
    if seconds is None:
        return "-"
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"

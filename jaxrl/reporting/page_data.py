"""What the report page is given: everything as plain JSON values."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from jaxrl.evaluation.results import EvaluationResult
from jaxrl.reporting.metrics import is_finite
from jaxrl.reporting.page_groups import BUDGET_BYTES, choose_groups
from jaxrl.reporting.page_tables import (
    CURVES,
    cards,
    comparison,
    evaluation,
    published,
    runs_table,
    subtitle,
    worth,
)
from jaxrl.reporting.run_folder import Run, stage_bands
from jaxrl.tasks.problem import kind_label, kind_order

MAIN, UPDATE, MACHINE, BEHAVIOURS, EVALUATION = range(5)  # the rooms of the page that panels stand in


class Panel(NamedTuple):
    """Curves drawn together. A name with "*" stands for all it fits, with no "/" in the place of the "*".

    quiet: names that are 0 at every step are left out. stacked: the shares fill the whole, one above the other.
    points: names with fewer, over all runs, are left out. A panel without data is left out.
    """

    room: int
    title: str
    unit: str
    names: tuple[str, ...]
    quiet: bool = False
    stacked: bool = False
    points: int = 1


PANELS = (
    Panel(MAIN, "Reward", "reward", ("reward/mean", "reward/format", "reward/answer")),
    Panel(MAIN, "What became of the responses", "share",
          ("share/correct", "share/wrong_answer", "share/unparseable", "share/bad_format", "share/cut_off"),
          stacked=True),
    Panel(MAIN, "Response length", "tokens", ("length/mean", "length/p10", "length/p50", "length/p90", "length/max")),
    Panel(MAIN, "Response length by verdict", "tokens",
          ("length/correct", "length/wrong_answer", "length/unparseable", "length/bad_format")),
    Panel(UPDATE, "Groups that teach nothing", "share of groups", ("groups/no_variance",)),
    Panel(UPDATE, "Entropy", "nats a token", ("entropy",)),
    Panel(UPDATE, "KL to the reference", "nats a token", ("loss/kl",)),
    Panel(UPDATE, "Loss", "loss", ("loss/total", "loss/policy")),
    Panel(UPDATE, "Gradient and update", "norm", ("gradient_norm", "update_norm")),
    Panel(UPDATE, "Clipped tokens", "share of tokens", ("ratio/clip_share",)),
    Panel(UPDATE, "Sampler against learner", "nats", ("mismatch/mean", "mismatch/max")),
    Panel(UPDATE, "Temperature", "", ("temperature",)),
    Panel(UPDATE, "Learning rate", "", ("learning_rate",)),
    Panel(MACHINE, "Time per step", "s", ("time/*",)),
    Panel(MACHINE, "Speed", "tokens/s", ("speed/rollout_tokens_per_second", "speed/update_tokens_per_second")),
    Panel(MACHINE, "Use of the machine", "share",
          ("speed/update_mfu", "tokens/slot_occupancy", "tokens/padding_share")),
    Panel(MACHINE, "Memory", "bytes", ("memory/peak_bytes",)),
    Panel(BEHAVIOURS, "Behaviours", "share of responses", ("behaviour/*",), quiet=True),
    Panel(BEHAVIOURS, "Suspected tricks", "share of responses", ("suspects/*",), quiet=True),
    Panel(EVALUATION, "Held-out accuracy while training", "share",
          ("evaluation/*/sampled/accuracy", "evaluation/*/greedy/accuracy"), points=3),
)  # fmt: skip


def page_data(
    runs: Sequence[Run],
    budget_bytes: int = BUDGET_BYTES,
    title: str = "",
    evaluations: Sequence[EvaluationResult] = (),
) -> dict[str, object]:
    """The page's data. The first run is told in full, the curves of the others are laid over its own.

    evaluations: shown in place of those of the first run; with them there may be no run.
    """
    run = runs[0] if runs else None
    results = list(evaluations) or run.evaluations
    panels = _panels(runs)
    shown = {one["name"] for panel in panels for one in panel["series"]} | {name for _, name, _ in CURVES}
    chosen, note = choose_groups(run, budget_bytes) if run else ([], "")
    named = f"told in full: {run.workdir.resolve().name} · " if len(runs) > 1 else ""
    return {
        "title": title or (run.workdir.resolve().name if run else " and ".join(result.model for result in results)),
        "subtitle": named + subtitle(run) if run else f"{len(results[0].items)} problems, rule {results[0].rule}",
        "cards": cards(runs, results),
        "runs": [_curves(one, shown) for one in runs],
        "runs_table": runs_table(runs),
        "panels": panels,
        "warnings": _warnings(run) if run else [],
        "worth": worth(run) if run else [],
        "evaluations": [evaluation(result) for result in results],
        "published": published(results),
        "comparison": comparison(results),
        "groups": chosen,
        "kinds": sorted({group["kind"] for group in chosen}, key=_label_order),
        "groups_note": note,
        "config": run.config if run else {},
        "manifest": run.manifest if run else {},
    }


def _label_order(label: str) -> tuple[int, str]:
    people = re.fullmatch(r"(\d+) people", label)
    return kind_order(f"p{people[1]}" if people else label)


def _warnings(run: Run) -> list[list[object]]:
    """(step, sentence) pairs: what the steps warned of, and the steps that the guard refused."""
    said = [[record["step"], text] for record in run.records for text in record.get("warnings", ())]
    refused = [[trip["step"], f"refused by the guard: {trip['cause']}"] for trip in run.trips]
    return sorted(said + refused, key=lambda pair: pair[0])


def _panels(runs: Sequence[Run]) -> list[dict[str, object]]:
    values: dict[str, list[float]] = {}
    for record in (record for run in runs for record in run.records):
        for name, value in record.items():
            if is_finite(value):
                values.setdefault(name, []).append(value)
    found = []
    for panel in PANELS:
        forms = [re.compile(re.escape(pattern).replace(r"\*", "[^/]+")) for pattern in panel.names]
        names = [
            name
            for form in forms
            for name in sorted(values)
            if form.fullmatch(name) and len(values[name]) >= panel.points
        ]
        if panel.quiet:
            names = [name for name in names if any(values[name])]
        series = [{"name": name, "label": _label(name), "hidden": _is_aside(name)} for name in names]
        if any(not one["hidden"] for one in series):
            found.append(panel._asdict() | {"series": series})
    return found


def _label(name: str) -> str:
    """A curve's name beside the title of its panel: "evaluation/p3/sampled/accuracy" is "3 people, sampled"."""
    parts = name.split("/")
    if parts[0] == "evaluation":
        return f"{kind_label(parts[1])}, {parts[2]}"
    return parts[-1].removesuffix("_tokens_per_second").replace("_", " ")


def _is_aside(name: str) -> bool:
    """Curves that are only drawn when asked for in the legend."""
    return name.startswith("evaluation/") and (name.endswith("/greedy/accuracy") or name.startswith("evaluation/all/"))


def _curves(run: Run, names: set[str]) -> dict[str, object]:
    """The curves of these names, in as many digits as an eye can tell."""
    series = {}
    for name in sorted(names):
        values = [record.get(name) for record in run.records]
        if any(map(is_finite, values)):
            series[name] = [float(f"{value:.5g}") if is_finite(value) else None for value in values]
    return {
        "name": run.workdir.resolve().name,
        "steps": [record["step"] for record in run.records],
        "series": series,
        "bands": [list(band) for band in stage_bands(run.records)],
    }

"""The data of the report page as plain JSON values."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from jaxrl.evaluation.results import EvaluationResult
from jaxrl.reporting.metrics import is_finite
from jaxrl.reporting.page_groups import BUDGET_BYTES, choose_groups
from jaxrl.reporting.page_tables import (
    CURVES,
    before_and_after,
    behaviour_accuracy,
    cards,
    evaluation_table,
    published_table,
    runs_table,
    subtitle,
)
from jaxrl.reporting.run_folder import RunFolder, stage_bands
from jaxrl.tasks.problem import kind_label, kind_order

MAIN, UPDATE, HARDWARE, BEHAVIOURS, EVALUATION = range(5)  # sections of the page with panels, in order


class Panel(NamedTuple):
    """Curves in one plot. A "*" in a name matches any text without "/". A panel without data is omitted.

    skip_zero: omit names that are 0 at every step. stacked: plot the shares as a stacked area. min_points: omit names
    with fewer points, summed over all runs. needs: omit the panel without values of this metric.
    """

    section: int
    title: str
    unit: str
    names: tuple[str, ...]
    skip_zero: bool = False
    stacked: bool = False
    min_points: int = 1
    needs: str = ""


PANELS = (
    Panel(MAIN, "Reward", "reward", ("reward/mean", "reward/format", "reward/answer")),
    Panel(MAIN, "Responses by verdict", "share",
          ("share/correct", "share/wrong_answer", "share/unparseable", "share/bad_format", "share/truncated"),
          stacked=True),
    Panel(MAIN, "Correct, and correct by sound reasoning", "share", ("share/correct", "share/sound"),
          needs="share/sound"),
    Panel(MAIN, "First wrong step of the reasoning", "share of responses", ("reasoning_errors/*",)),
    Panel(MAIN, "Response length", "tokens", ("length/mean", "length/p10", "length/p50", "length/p90", "length/max")),
    Panel(MAIN, "Response length by verdict", "tokens",
          ("length/correct", "length/wrong_answer", "length/unparseable", "length/bad_format")),
    Panel(UPDATE, "Groups without reward variance", "share of groups", ("groups/no_variance",)),
    Panel(UPDATE, "Entropy", "nats per token", ("entropy",)),
    Panel(UPDATE, "KL to the reference", "nats per token", ("loss/kl",)),
    Panel(UPDATE, "Loss", "loss", ("loss/total", "loss/policy")),
    Panel(UPDATE, "Gradient and parameter change", "norm", ("gradient_norm", "update_norm")),
    Panel(UPDATE, "Clipped tokens", "share of tokens", ("ratio/clip_share",)),
    Panel(UPDATE, "Sampler/learner log-probability mismatch", "nats", ("mismatch/mean", "mismatch/max")),
    Panel(UPDATE, "Temperature", "", ("temperature",)),
    Panel(UPDATE, "Learning rate", "", ("learning_rate",)),
    Panel(HARDWARE, "Time per step", "s", ("time/*",)),
    Panel(HARDWARE, "Speed", "tokens/s", ("speed/rollout_tokens_per_second", "speed/update_tokens_per_second")),
    Panel(HARDWARE, "Hardware utilization", "share",
          ("speed/update_mfu", "tokens/slot_occupancy", "tokens/padding_share")),
    Panel(HARDWARE, "Memory", "bytes", ("memory/peak_bytes",)),
    Panel(BEHAVIOURS, "Behaviours", "share of responses", ("behaviour/*",), skip_zero=True),
    Panel(BEHAVIOURS, "Suspected reward hacks", "share of responses", ("suspects/*",), skip_zero=True),
    Panel(EVALUATION, "Held-out accuracy during training", "share",
          ("evaluation/*/sampled/accuracy", "evaluation/*/sampled/sound", "evaluation/*/greedy/accuracy",
           "evaluation/*/greedy/sound"), min_points=3),
)  # fmt: skip


def page_data(
    runs: Sequence[RunFolder],
    budget_bytes: int = BUDGET_BYTES,
    title: str = "",
    evaluations: Sequence[EvaluationResult] = (),
) -> dict[str, object]:
    """The data of the page: everything about the first run, overlaid with the curves of the others.

    evaluations: replace those of the first run; with them, `runs` may be empty.
    """
    run = runs[0] if runs else None
    results = list(evaluations) or run.evaluations
    panels = _panels(runs)
    shown = {series["name"] for panel in panels for series in panel["series"]} | {name for _, name, _ in CURVES}
    chosen, note = choose_groups(run, budget_bytes) if run else ([], "")
    prefix = f"details of {run.workdir.resolve().name} · " if len(runs) > 1 else ""
    return {
        "title": title or (run.workdir.resolve().name if run else " and ".join(result.model for result in results)),
        "subtitle": prefix + subtitle(run) if run else f"{len(results[0].items)} problems, rule {results[0].rule}",
        "cards": cards(runs, results),
        "runs": [_curves(each, shown) for each in runs],
        "runs_table": runs_table(runs),
        "panels": panels,
        "warnings": _warnings(run) if run else [],
        "behaviour_accuracy": behaviour_accuracy(run) if run else [],
        "evaluations": [evaluation_table(result) for result in results],
        "published": published_table(results),
        "comparison": before_and_after(results),
        "groups": chosen,
        "kinds": sorted({group["kind"] for group in chosen}, key=_label_order),
        "groups_note": note,
        "config": run.config if run else {},
        "manifest": run.manifest if run else {},
    }


def _label_order(label: str) -> tuple[int, str]:
    people = re.fullmatch(r"(\d+) people", label)
    return kind_order(f"p{people[1]}" if people else label)


def _warnings(run: RunFolder) -> list[list[object]]:
    """(step, sentence) pairs: the warnings of all steps, and the steps that the guard rejected."""
    warnings = [[record["step"], text] for record in run.records for text in record.get("warnings", ())]
    rejected = [[trip["step"], f"rejected by the guard: {trip['cause']}"] for trip in run.trips]
    return sorted(warnings + rejected, key=lambda pair: pair[0])


def _panels(runs: Sequence[RunFolder]) -> list[dict[str, object]]:
    values: dict[str, list[float]] = {}
    for record in (record for run in runs for record in run.records):
        for name, value in record.items():
            if is_finite(value):
                values.setdefault(name, []).append(value)
    panels = []
    for panel in (panel for panel in PANELS if not panel.needs or panel.needs in values):
        patterns = [re.compile(re.escape(name).replace(r"\*", "[^/]+")) for name in panel.names]
        names = [
            name
            for pattern in patterns
            for name in sorted(values)
            if pattern.fullmatch(name) and len(values[name]) >= panel.min_points
        ]
        if panel.skip_zero:
            names = [name for name in names if any(values[name])]
        series = [{"name": name, "label": _label(name), "hidden": _is_hidden(name)} for name in names]
        if any(not curve["hidden"] for curve in series):
            panels.append(panel._asdict() | {"series": series})
    return panels


def _label(name: str) -> str:
    """Label of a curve in its panel: "evaluation/p3/sampled/accuracy" becomes "3 people, sampled"."""
    parts = name.split("/")
    if parts[0] == "evaluation":
        return f"{kind_label(parts[1])}, {parts[2]}" + (", sound" if parts[3] == "sound" else "")
    return parts[-1].removesuffix("_tokens_per_second").replace("_", " ")


def _is_hidden(name: str) -> bool:
    """Whether a curve is only shown after a click in the legend."""
    return name.startswith("evaluation/") and ("/greedy/" in name or name.startswith("evaluation/all/"))


def _value(record: dict[str, object], name: str) -> object:
    """A metric of a step. A kind of error that no response of a verified step has is absent there, which means 0."""
    is_error = name.startswith("reasoning_errors/") and "share/sound" in record
    return record.get(name, 0.0 if is_error else None)


def _curves(run: RunFolder, names: set[str]) -> dict[str, object]:
    """The curves with these names, rounded to 5 significant digits."""
    series = {}
    for name in sorted(names):
        values = [_value(record, name) for record in run.records]
        if any(map(is_finite, values)):
            series[name] = [float(f"{value:.5g}") if is_finite(value) else None for value in values]
    return {
        "name": run.workdir.resolve().name,
        "steps": [record["step"] for record in run.records],
        "series": series,
        "bands": [list(band) for band in stage_bands(run.records)],
    }

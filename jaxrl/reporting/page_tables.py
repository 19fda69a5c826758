"""The report's numbers: cards at its head, what behaviours are worth, evaluations, and runs side by side."""

import math
from collections.abc import Sequence

from jaxrl.evaluation.intervals import Estimate, clustered_share
from jaxrl.evaluation.published import PUBLISHED
from jaxrl.evaluation.results import (
    ALL,
    EvaluationResult,
    Item,
    Row,
    Sample,
    differences,
    markdown,
    percent,
    rows,
    share,
)
from jaxrl.reporting.behaviours import BEHAVIOURS
from jaxrl.reporting.metrics import is_finite
from jaxrl.reporting.page_groups import marks
from jaxrl.reporting.run_folder import RunFolder, stage_bands
from jaxrl.tasks.problem import kind_label

MOST_PAIRS = 24  # problems shown side by side before and after
CURVES = (
    ("accuracy while training", "share/correct", "{:.1%}"),
    ("format errors", "share/bad_format", "{:.1%}"),
    ("mean length", "length/mean", "{:.0f} tokens"),
    ("mean reward", "reward/mean", "{:+.2f}"),
)


def subtitle(run: RunFolder) -> str:
    """What was run, in a line."""
    bands = stage_bands(run.records)
    stages = ", ".join(f"{band.stage} ({band.first} to {band.last})" for band in bands)
    hardware = run.manifest.get("hardware", {})
    parts = [str(run.config.get("model", "")), f"{run.records[-1]['step']} steps", stages,
             f"rule {run.manifest['rule']}" if "rule" in run.manifest else "",
             f"{hardware['devices']} x {hardware['kind']}" if hardware else ""]  # fmt: skip
    return " · ".join(part for part in parts if part)


def cards(runs: Sequence[RunFolder], evaluations: Sequence[EvaluationResult]) -> list[dict[str, str]]:
    """The head of the page: held-out accuracy, then where the first run's curves started and where they stand."""
    found = [_held_out_card(evaluations)] if evaluations else []
    for label, name, form in CURVES if runs else ():
        ends = _ends(runs[0], name)
        if ends:
            first, last = map(form.format, ends)
            found.append(
                {
                    "label": label,
                    "before": first.removesuffix(" tokens"),
                    "after": last,
                    "series": name,
                    "note": "first and last steps",
                }
            )
    return found


def _ends(run: RunFolder, name: str) -> tuple[float, float] | None:
    """Means over the first and the last twentieth of the steps."""
    values = [float(record[name]) for record in run.records if is_finite(record.get(name))]
    if not values:
        return None
    edge = max(1, len(values) // 20)
    return sum(values[:edge]) / edge, sum(values[-edge:]) / edge


def _main_row(result: EvaluationResult) -> Row:
    """Of the kind with the most problems, sampled where samples were drawn."""
    return max((row for row in rows(result) if row.kind != ALL), key=lambda row: (row.mode == "sampled", row.problems))


def _held_out_card(evaluations: Sequence[EvaluationResult]) -> dict[str, str]:
    row = _main_row(evaluations[-1])
    note = f"{kind_label(row.kind)}, {row.mode}, {row.problems} problems × {row.samples}"
    card = {"label": "held-out accuracy", "before": "", "after": f"{row.accuracy.value:.1%}", "series": ""}
    first = next((old for old in rows(evaluations[0]) if (old.kind, old.mode) == (row.kind, row.mode)), None)
    if len(evaluations) > 1 and first:
        card["before"] = f"{first.accuracy.value:.1%}"
        changes = paired_differences(evaluations[0], evaluations[-1])
        if changes:
            change = changes[row.kind, row.mode]
            note += f"; {100 * change.value:+.1f} points [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
    return card | {"note": note}


def runs_table(runs: Sequence[RunFolder]) -> dict[str, object]:
    """One line a run: where its curves end, and its held-out accuracy before and after."""
    lines = []
    for run in runs:
        line = [run.workdir.resolve().name, str(run.records[-1]["step"]) if run.records else "0"]
        for _, name, form in CURVES:
            ends = _ends(run, name)
            line.append(form.format(ends[1]) if ends else "–")
        named = {result.name: result for result in run.evaluations}
        line += [percent(_main_row(named[end]).accuracy) if end in named else "–" for end in ("before", "after")]
        lines.append(line)
    heads = ["run", "steps", *(label for label, _, _ in CURVES), "held-out before", "held-out after"]
    return {"heads": heads, "lines": lines}


def behaviour_accuracy(run: RunFolder) -> list[dict[str, object]]:
    """By stage, for each behaviour that showed: its share of the responses, and the accuracy with and without it.

    Counts are gathered from the records of the stage's steps; each step is a cluster of the interval, so that neither
    responses to one problem nor the progress of training make it too narrow.
    """
    found = []
    for band in stage_bands(run.records):
        records = [record for record in run.records if band.first <= record["step"] <= band.last]
        lines = [line for name in BEHAVIOURS if (line := _worth_line(records, name))]
        if lines:
            found.append({"stage": band.stage, "lines": lines})
    return found


def _worth_line(records: Sequence[dict[str, object]], name: str) -> dict[str, object] | None:
    metric = f"behaviour/{name}"
    told = [record for record in records if {metric, "tokens/rollout", "length/mean"} <= record.keys()]
    responses = [round(record["tokens/rollout"] / record["length/mean"]) for record in told]
    shown = [round(record[metric] * count) for record, count in zip(told, responses, strict=True)]
    if not sum(shown):
        return None
    others = [count - mine for count, mine in zip(responses, shown, strict=True)]
    sides = {}
    for side, counts in (("with", shown), ("without", others)):
        right = [round(record.get(f"{metric}/{side}", 0) * count) for record, count in zip(told, counts, strict=True)]
        sides[side] = _bounds(clustered_share(right, counts))
    return {"name": name, "share": sum(shown) / sum(responses)} | sides


def _bounds(estimate: Estimate) -> list[float] | None:
    return None if math.isnan(estimate.value) else list(estimate)


def evaluation_table(result: EvaluationResult) -> dict[str, object]:
    """An evaluation as its chart and its table show it."""
    found = rows(result)
    return {
        "name": result.name,
        "model": result.model,
        "step": result.step,
        "rule": result.rule,
        "markdown": markdown(result),
        "rows": [
            {
                "kind": kind_label(row.kind),
                "mode": row.mode,
                "accuracy": [None if math.isnan(value) else value for value in row.accuracy],
                "floor": row.floor,
                "cells": [
                    kind_label(row.kind), row.mode, f"{row.problems} × {row.samples}",
                    percent(row.accuracy), percent(row.well_formed_accuracy), percent(row.format_errors),
                    f"{row.cut_off:.1%}",
                    f"{row.mean_tokens:.0f}", f"{row.floor:.1%}",
                    ", ".join(f"{k}: {share(value.value)}" for k, value in row.pass_at.items()),
                    ", ".join(f"{way} {value:.0%}" for way, value in row.styles.items()),
                ],
            }
            for row in found
        ],
    }  # fmt: skip


def published_table(evaluations: Sequence[EvaluationResult]) -> dict[str, object]:
    """The published numbers of other models for the kinds that were asked, below those of this page."""
    known = {kind for by_kind in PUBLISHED.values() for kind in by_kind}
    asked = dict.fromkeys(row.kind for result in evaluations for row in rows(result))
    kinds = [kind for kind in asked if kind in known]
    if not kinds:
        return {"heads": [], "lines": []}
    ends = list(evaluations) if len(evaluations) < 2 else [evaluations[0], evaluations[-1]]
    lines = []
    for result in ends:
        mine = {row.kind: row for row in rows(result)}  # sampled comes last, where there are samples
        lines.append([result.name, *(f"{mine[kind].accuracy.value:.0%}" if kind in mine else "–" for kind in kinds)])
    for model, by_kind in PUBLISHED.items():
        lines.append([model, *(f"{by_kind[kind]:.0%}" if kind in by_kind else "–" for kind in kinds)])
    return {"heads": ["model", *map(kind_label, kinds)], "lines": lines}


def paired_differences(before: EvaluationResult, after: EvaluationResult) -> dict | None:
    """The differences, or None where the two were asked other problems: none is made up."""
    try:
        return differences(before, after)
    except ValueError:
        return None


def before_and_after(evaluations: Sequence[EvaluationResult]) -> dict[str, object] | None:
    """First against last evaluation, where both answered the same problems."""
    if len(evaluations) < 2:
        return None
    before, after = evaluations[0], evaluations[-1]
    changes = paired_differences(before, after)
    if changes is None:
        return None
    old, new = ({(row.kind, row.mode): row for row in rows(result)} for result in (before, after))
    lines = []
    for (kind, mode), change in changes.items():
        first, last = old[kind, mode], new[kind, mode]
        lines.append([
            kind_label(kind), mode, percent(first.accuracy), percent(last.accuracy),
            f"{100 * change.value:+.1f} [{100 * change.low:+.1f}, {100 * change.high:+.1f}]",
            f"{change.better} / {change.worse}",
            f"{share(first.well_formed_accuracy.value)} → {share(last.well_formed_accuracy.value)}",
            f"{share(first.format_errors.value)} → {share(last.format_errors.value)}",
            f"{first.mean_tokens:.0f} → {last.mean_tokens:.0f}",
        ])  # fmt: skip
    main = _main_row(after).kind
    pairs = list(zip(before.items, after.items, strict=True))
    # What changed teaches most: newly right first, then newly wrong, then the rest; the main kind before the others.
    turns = [_turn(*pair) for pair in pairs]
    order = sorted(range(len(pairs)), key=lambda i: ((1, -1, 0).index(turns[i]), pairs[i][0].kind != main))
    better, worse = turns.count(1), turns.count(-1)
    note = (
        f"Of {len(pairs)} problems, {better} are newly right and {worse} newly wrong in the answer shown here "
        f"(greedy where there is one). The {min(len(pairs), MOST_PAIRS)} below are not a fair sample: what changed "
        "comes first."
    )
    return {
        "before": before.name,
        "after": after.name,
        "lines": lines,
        "note": note,
        "pairs": [_pair(*pairs[i]) for i in order[:MOST_PAIRS]],
    }


def _shown(item: Item) -> Sample:
    return (item.greedy or item.sampled)[0]


def _turn(before: Item, after: Item) -> int:
    """1: newly right, -1: newly wrong, 0: neither."""
    return (_shown(after).verdict == "correct") - (_shown(before).verdict == "correct")


def _pair(before: Item, after: Item) -> dict[str, object]:
    first, last = _shown(before), _shown(after)
    return {
        "problem": before.problem,
        "kind": kind_label(before.kind),
        "question": before.question,
        "solution": before.solution,
        "better": _turn(before, after) == 1,
        "worse": _turn(before, after) == -1,
        "before": _answer(first),
        "after": _answer(last),
    }


def _answer(sample: Sample) -> dict[str, object]:
    return sample._asdict() | {"marks": marks(sample.response)}

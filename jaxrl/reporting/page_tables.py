"""The tables of the report: summary cards, accuracy by behaviour, evaluations, and a comparison of runs."""

import math
from collections.abc import Iterable, Sequence

from jaxrl.evaluation.intervals import Estimate, clustered_proportion
from jaxrl.evaluation.perturbation import PERTURBATION_HEADS, perturbation_cells, perturbation_markdown
from jaxrl.evaluation.results import (
    ALL,
    EvaluationResult,
    Item,
    Row,
    Sample,
    differences,
    format_estimate,
    format_percent,
    format_sound,
    markdown,
    reasoning_error_table,
    rows,
)
from jaxrl.reporting.behaviours import BEHAVIOURS
from jaxrl.reporting.metrics import is_finite
from jaxrl.reporting.page_groups import response_data
from jaxrl.reporting.run_folder import RunFolder, stage_bands
from jaxrl.tasks.problem import kind_label
from jaxrl.tasks.published import PUBLISHED

MAX_PAIRS = 24  # problems shown side by side before and after training
_EVALUATION_HEADS = (
    *("kind", "mode", "problems × samples", "accuracy", "sound", "if well-formed", "bad format", "truncated", "tokens"),
    *("constant answer", "pass@k", "sound pass@k", "response styles"),
)
CURVES = (
    ("training accuracy", "share/correct", "{:.1%}"),
    ("sound in training", "share/sound", "{:.1%}"),
    ("format errors", "share/bad_format", "{:.1%}"),
    ("mean length", "length/mean", "{:.0f} tokens"),
    ("mean reward", "reward/mean", "{:+.2f}"),
)


def subtitle(run: RunFolder) -> str:
    """Model, steps, stages, rule and hardware of a run in one line."""
    bands = stage_bands(run.records)
    stages = ", ".join(f"{band.stage} ({band.first} to {band.last})" for band in bands)
    hardware = run.manifest.get("hardware", {})
    parts = [str(run.config.get("model", "")), f"{run.records[-1]['step']} steps", stages,
             f"reward rule {run.manifest['rule']}" if "rule" in run.manifest else "",
             f"{hardware['devices']} x {hardware['kind']}" if hardware else ""]  # fmt: skip
    return " · ".join(part for part in parts if part)


def cards(runs: Sequence[RunFolder], evaluations: Sequence[EvaluationResult]) -> list[dict[str, str]]:
    """Summary cards: held-out accuracy, then start and end of the first run's main curves."""
    summary = _held_out_cards(evaluations) if evaluations else []
    for label, name, form in CURVES if runs else ():
        ends = _ends(runs[0], name)
        if ends:
            first, last = map(form.format, ends)
            summary.append(
                {
                    "label": label,
                    "before": first.removesuffix(" tokens"),
                    "after": last,
                    "series": name,
                    "note": "first and last 5 % of the steps",
                }
            )
    return summary


def _ends(run: RunFolder, name: str) -> tuple[float, float] | None:
    """Means over the first and the last 5 % of the steps."""
    values = [float(record[name]) for record in run.records if is_finite(record.get(name))]
    if not values:
        return None
    edge = max(1, len(values) // 20)
    return sum(values[:edge]) / edge, sum(values[-edge:]) / edge


def _main_row(result: EvaluationResult) -> Row:
    """The row of the kind with the most problems; the sampled one, if there are samples."""
    return max((row for row in rows(result) if row.kind != ALL), key=lambda row: (row.mode == "sampled", row.problems))


def _held_out_cards(evaluations: Sequence[EvaluationResult]) -> list[dict[str, str]]:
    """Held-out accuracy, and sound accuracy where the task verifies the reasoning."""
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
    cards = [card | {"note": f"{note}; constant answer {row.constant_answer_accuracy:.1%}"}]
    if row.sound:
        before = f"{first.sound.value:.1%}" if card["before"] and first.sound else ""
        sound = {"label": "held-out, sound", "before": before, "after": f"{row.sound.value:.1%}", "series": ""}
        cards.append(sound | {"note": "correct, and every step of the reasoning is verified"})
    return cards


def runs_table(runs: Sequence[RunFolder]) -> dict[str, object]:
    """One line per run: end of its main curves, and held-out accuracy before and after training."""
    curves = [curve for curve in CURVES if curve[1] != "share/sound" or any(_ends(run, curve[1]) for run in runs)]
    main_rows = [{result.name: _main_row(result) for result in run.evaluations} for run in runs]
    verified = any(row.sound for by_name in main_rows for row in by_name.values())
    lines = []
    for run, by_name in zip(runs, main_rows, strict=True):
        line = [run.workdir.resolve().name, str(run.records[-1]["step"]) if run.records else "0"]
        for _, name, form in curves:
            ends = _ends(run, name)
            line.append(form.format(ends[1]) if ends else "–")
        ends = [by_name.get(end) for end in ("before", "after")]
        line += [format_estimate(row.accuracy) if row else "–" for row in ends]
        line += [format_sound(row) if row else "–" for row in ends if verified]
        lines.append(line)
    heads = ["run", "steps", *(label for label, _, _ in curves), "held-out before", "held-out after"]
    return {"heads": heads + ["sound before", "sound after"] * verified, "lines": lines}


def behaviour_accuracy(run: RunFolder) -> list[dict[str, object]]:
    """For each stage and each behaviour that occurred: its share of responses, and the accuracy with and without it.

    Counts are summed over the steps of the stage. The intervals are clustered by step, because responses to one problem
    are correlated and the accuracy changes during training.
    """
    stages = []
    for band in stage_bands(run.records):
        records = [record for record in run.records if band.first <= record["step"] <= band.last]
        lines = [line for name in BEHAVIOURS if (line := _behaviour_line(records, name))]
        if lines:
            stages.append({"stage": band.stage, "lines": lines})
    return stages


def _behaviour_line(records: Sequence[dict[str, object]], name: str) -> dict[str, object] | None:
    metric = f"behaviour/{name}"
    measured = [record for record in records if {metric, "tokens/rollout", "length/mean"} <= record.keys()]
    responses = [round(record["tokens/rollout"] / record["length/mean"]) for record in measured]
    with_it = [round(record[metric] * count) for record, count in zip(measured, responses, strict=True)]
    if not sum(with_it):
        return None
    without = [total - count for total, count in zip(responses, with_it, strict=True)]
    sides = {}
    for side, counts in (("with", with_it), ("without", without)):
        correct = [round(record.get(f"{metric}/{side}", 0) * n) for record, n in zip(measured, counts, strict=True)]
        sides[side] = _bounds(clustered_proportion(correct, counts))
    return {"name": name, "share": sum(with_it) / sum(responses)} | sides


def _bounds(estimate: Estimate) -> list[float] | None:
    return None if math.isnan(estimate.value) else list(estimate)


def evaluation_table(result: EvaluationResult) -> dict[str, object]:
    """An evaluation as data of its chart and its tables."""
    table = rows(result)
    error_heads, error_lines = reasoning_error_table(table)
    heads, lines = _omit_soundness(_EVALUATION_HEADS, [_evaluation_cells(row) for row in table], table)
    return {
        "name": result.name,
        "model": result.model,
        "step": result.step,
        "rule": result.rule,
        "markdown": markdown(result) + perturbation_markdown(result),
        "heads": heads,
        "errors": {"heads": error_heads, "lines": error_lines},
        "perturbed": {"heads": PERTURBATION_HEADS, "lines": perturbation_cells(result)},
        "rows": [
            {
                "kind": kind_label(row.kind),
                "mode": row.mode,
                "accuracy": [None if math.isnan(value) else value for value in row.accuracy],
                "sound": list(row.sound) if row.sound else None,
                "baseline": row.constant_answer_accuracy,
                "cells": cells,
            }
            for row, cells in zip(table, lines, strict=True)
        ],
    }


def _evaluation_cells(row: Row) -> list[str]:
    """The cells of a row under `_EVALUATION_HEADS`."""
    pass_at, sound_pass_at = (
        ", ".join(f"{k}: {format_percent(value.value)}" for k, value in by_k.items())
        for by_k in (row.pass_at, row.sound_pass_at)
    )
    return [
        kind_label(row.kind),
        row.mode,
        f"{row.problems} × {row.samples}",
        format_estimate(row.accuracy),
        format_sound(row),
        format_estimate(row.well_formed_accuracy),
        format_estimate(row.format_errors),
        f"{row.truncated:.1%}",
        f"{row.mean_tokens:.0f}",
        f"{row.constant_answer_accuracy:.1%}",
        pass_at,
        sound_pass_at,
        ", ".join(f"{style} {value:.0%}" for style, value in row.styles.items()),
    ]


def _omit_soundness(
    heads: Sequence[str], lines: Sequence[Sequence[str]], table: Iterable[Row]
) -> tuple[list[str], list[list[str]]]:
    """Heads and lines without the columns on soundness, if the task verified none of the rows."""
    verified = any(row.sound for row in table)
    kept = [column for column, head in enumerate(heads) if verified or head not in ("sound", "sound pass@k")]
    return [heads[column] for column in kept], [[line[column] for column in kept] for line in lines]


def published_table(evaluations: Sequence[EvaluationResult]) -> dict[str, object]:
    """Accuracy by kind: these evaluations, then the published accuracy of other models.

    Empty unless the evaluations are on problems of the published distribution.
    """
    evaluations = [result for result in evaluations if result.published]
    known = {kind for by_kind in PUBLISHED.values() for kind in by_kind}
    evaluated = dict.fromkeys(row.kind for result in evaluations for row in rows(result))
    kinds = [kind for kind in evaluated if kind in known]
    if not kinds:
        return {"heads": [], "lines": []}
    ends = list(evaluations) if len(evaluations) < 2 else [evaluations[0], evaluations[-1]]
    lines = []
    for result in ends:
        by_kind = {
            row.kind: row for row in rows(result)
        }  # the sampled row replaces the greedy one, if there are samples
        accuracies = (f"{by_kind[kind].accuracy.value:.0%}" if kind in by_kind else "–" for kind in kinds)
        lines.append([result.name, *accuracies])
    for model, by_kind in PUBLISHED.items():
        lines.append([model, *(f"{by_kind[kind]:.0%}" if kind in by_kind else "–" for kind in kinds)])
    return {"heads": ["model", *map(kind_label, kinds)], "lines": lines}


def paired_differences(before: EvaluationResult, after: EvaluationResult) -> dict | None:
    """Paired differences by (kind, mode), or None if the evaluations used different problems."""
    try:
        return differences(before, after)
    except ValueError:
        return None


def before_and_after(evaluations: Sequence[EvaluationResult]) -> dict[str, object] | None:
    """The first against the last evaluation; None if they used different problems."""
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
            kind_label(kind), mode, format_estimate(first.accuracy), format_estimate(last.accuracy),
            f"{100 * change.value:+.1f} [{100 * change.low:+.1f}, {100 * change.high:+.1f}]",
            f"{change.better} / {change.worse}",
            f"{format_sound(first)} → {format_sound(last)}",
            f"{format_percent(first.well_formed_accuracy.value)} → {format_percent(last.well_formed_accuracy.value)}",
            f"{format_percent(first.format_errors.value)} → {format_percent(last.format_errors.value)}",
            f"{first.mean_tokens:.0f} → {last.mean_tokens:.0f}",
            f"{last.constant_answer_accuracy:.1%}",
        ])  # fmt: skip
    heads = ["kind", "mode", before.name, after.name, "change", "better / worse", "sound", "if well-formed"]
    heads, lines = _omit_soundness(
        [*heads, "bad format", "tokens", "constant answer"], lines, [*old.values(), *new.values()]
    )
    main = _main_row(after).kind
    pairs = list(zip(before.items, after.items, strict=True))
    # Changes are the most informative: newly correct first, then newly wrong, then unchanged; the main kind first.
    signs = [_change(*pair) for pair in pairs]
    order = sorted(range(len(pairs)), key=lambda i: ((1, -1, 0).index(signs[i]), pairs[i][0].kind != main))
    better, worse = signs.count(1), signs.count(-1)
    note = (
        f"Of {len(pairs)} problems, {better} are newly correct and {worse} newly wrong, judged by the greedy response "
        "(or by the first sample, if there is none). "
        f"The {min(len(pairs), MAX_PAIRS)} problems below are not a random sample: changed ones come first."
    )
    return {
        "before": before.name,
        "after": after.name,
        "heads": heads,
        "lines": lines,
        "note": note,
        "pairs": [_pair(*pairs[i]) for i in order[:MAX_PAIRS]],
    }


def _shown(item: Item) -> Sample:
    return (item.greedy or item.sampled)[0]


def _change(before: Item, after: Item) -> int:
    """1: newly correct, -1: newly wrong, 0: unchanged."""
    return (_shown(after).verdict == "correct") - (_shown(before).verdict == "correct")


def _pair(before: Item, after: Item) -> dict[str, object]:
    first, last = _shown(before), _shown(after)
    return {
        "problem": before.problem,
        "kind": kind_label(before.kind),
        "question": before.question,
        "solution": before.solution,
        "better": _change(before, after) == 1,
        "worse": _change(before, after) == -1,
        "before": response_data(first),
        "after": response_data(last),
    }

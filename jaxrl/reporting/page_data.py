"""What the report page is given: everything as plain JSON values, chosen so that the file stays small."""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence

from jaxrl.evaluation.problems import kind_label, kind_order
from jaxrl.evaluation.table import (
    EvaluationResult,
    Item,
    Sample,
    differences,
    markdown,
    percent,
    rows,
    share,
)
from jaxrl.reporting.behaviours import find
from jaxrl.reporting.metrics import is_finite
from jaxrl.reporting.rollouts import GroupRecord, ResponseRecord, read_rollouts, rollout_path
from jaxrl.reporting.run_folder import Run, stage_bands

BUDGET_BYTES = 12_000_000  # of groups as they stand in the page; plotly adds 5 MB, and 25 MB is the limit
MOST_STEPS = 60  # whose rollouts are put into the page
MOST_PAIRS = 24  # problems shown side by side before and after

# (title, unit, names). A name with "*" stands for all it fits, with no "/" in the place of the "*".
# A panel without data is left out.
PANELS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Reward", "reward", ("reward/mean", "reward/format", "reward/answer")),
    ("What became of the responses", "share",
     ("share/correct", "share/wrong_answer", "share/unparseable", "share/bad_format", "share/cut_off")),
    ("Response length", "tokens", ("length/mean", "length/p10", "length/p50", "length/p90", "length/max")),
    ("Response length by verdict", "tokens", ("length/correct", "length/wrong")),
    ("Behaviours", "share of responses", ("behaviour/*",)),
    ("Suspected tricks", "share of responses", ("suspects/*",)),
    ("Held-out accuracy", "share", ("evaluation/*/sampled/accuracy", "evaluation/*/greedy/accuracy")),
    ("Entropy", "nats a token", ("entropy",)),
    ("KL to the reference", "nats a token", ("loss/kl",)),
    ("Loss", "loss", ("loss/total", "loss/policy")),
    ("Gradient norm", "norm", ("gradient_norm",)),
    ("Clipped tokens", "share", ("ratio/clip_share",)),
    ("Sampler against learner", "nats", ("mismatch/mean", "mismatch/max")),
    ("Groups that teach nothing", "share", ("groups/no_variance",)),
    ("Temperature", "", ("temperature",)),
    ("Learning rate", "", ("learning_rate",)),
    ("Time per step", "s", ("time/*",)),
    ("Speed", "tokens/s", ("speed/*",)),
)  # fmt: skip


def page_data(runs: Sequence[Run], budget_bytes: int = BUDGET_BYTES, title: str = "") -> dict[str, object]:
    """The page's data. The first run is told in full, the curves of the others are laid over its own."""
    run = runs[0]
    name = run.workdir.resolve().name
    chosen, note = choose_groups(run, budget_bytes)
    return {
        "title": title or name,
        "summary": [["told in full", name]] * (len(runs) > 1) + summary(run),
        "runs": [_curves(other) for other in runs],
        "panels": _panels(runs),
        "warnings": [[record["step"], text] for record in run.records for text in record.get("warnings", ())],
        "evaluations": [_evaluation(result) for result in run.evaluations],
        "comparison": _comparison(run.evaluations),
        "groups": [group | {"kind": kind_label(group["kind"])} for group in chosen],
        "kinds": [kind_label(kind) for kind in sorted({group["kind"] for group in chosen}, key=kind_order)],
        "groups_note": note,
        "config": run.config,
        "manifest": run.manifest,
    }


def _panels(runs: Sequence[Run]) -> list[dict[str, object]]:
    present = {name for run in runs for record in run.records for name, v in record.items() if is_finite(v)}
    panels = []
    for title, unit, patterns in PANELS:
        forms = [re.compile(re.escape(pattern).replace(r"\*", "[^/]+")) for pattern in patterns]
        names = [name for form in forms for name in sorted(present) if form.fullmatch(name)]
        if names:
            panels.append({"title": title, "unit": unit, "names": names})
    return panels


def summary(run: Run) -> list[list[str]]:
    """(what, value) pairs for the head of the page: where the run started and where it stands, on training
    data."""
    if not run.records:
        return []
    bands = stage_bands(run.records)
    edge = max(1, len(run.records) // 20)
    found = [["steps", str(run.records[-1]["step"])]]
    if bands:
        found.append(["stages", ", ".join(f"{band.stage} ({band.first} to {band.last})" for band in bands)])
    for label, name, form in (
        ("accuracy while training", "share/correct", "{:.1%}"),
        ("format errors", "share/bad_format", "{:.1%}"),
        ("mean reward", "reward/mean", "{:+.2f}"),
        ("mean length", "length/mean", "{:.0f} tokens"),
    ):
        values = [float(record[name]) for record in run.records if is_finite(record.get(name))]
        if values:
            first, last = (sum(part) / len(part) for part in (values[:edge], values[-edge:]))
            found.append([label, f"{form.format(first)} → {form.format(last)}"])
    return found


def choose_groups(run: Run, budget_bytes: int) -> tuple[list[dict[str, object]], str]:
    """Groups for the browser, and a sentence that says how many of how many they are.

    Steps are taken evenly, always with the first and last of each stage; of each step the same share of the
    budget. Problems chosen at an earlier step come first, so that a prompt can be followed across steps.
    """
    if not run.rollout_steps:
        return [], "This run stored no rollouts."
    edges = {step for band in stage_bands(run.records) for step in (band.first, band.last)}
    steps = _spread(run.rollout_steps, edges, MOST_STEPS)
    chosen: list[dict[str, object]] = []
    seen: Counter[str] = Counter()
    shown = stored = 0
    for step in steps:
        groups = read_rollouts(rollout_path(run.rollouts, step))
        left = budget_bytes / len(steps)
        for group in sorted(groups, key=lambda group: -seen[group.problem]):
            packed = _group(group)
            size = len(json.dumps(packed, ensure_ascii=False).encode())
            if size > left:
                break
            left -= size
            shown += 1
            chosen.append(packed)
            seen[group.problem] += 1
        stored += len(groups)
    note = (
        f"{shown} of {stored} groups of {len(steps)} steps are in this page; the run stored "
        f"{len(run.rollout_steps)} steps, all of them in its folder rollouts/."
    )
    return chosen, note


def _spread(steps: Sequence[int], edges: set[int], most: int) -> list[int]:
    if len(steps) <= most:
        return list(steps)
    kept = {step for step in steps if step in edges}
    free = max(2, most - len(kept))
    kept |= {steps[round(i * (len(steps) - 1) / (free - 1))] for i in range(free)}
    return sorted(kept)


def _group(group: GroupRecord) -> dict[str, object]:
    fields = group._asdict() | {"responses": [_response(response) for response in group.responses]}
    del fields["prompt_index"]
    return fields


def _response(response: ResponseRecord) -> dict[str, object]:
    return response._asdict() | {"marks": marks(response.response)}


def marks(text: str) -> list[list[object]]:
    """Behaviours in the text as [name, start, end] in UTF-16 units, which is how browsers count."""
    hits = find(text)
    if text.isascii():
        return [[hit.behaviour, hit.start, hit.end] for hit in hits]
    places = [0]
    for letter in text:
        places.append(places[-1] + (2 if ord(letter) > 0xFFFF else 1))
    return [[hit.behaviour, places[hit.start], places[hit.end]] for hit in hits]


def _curves(run: Run) -> dict[str, object]:
    names = dict.fromkeys(
        name for record in run.records for name, value in record.items() if is_finite(value)
    )
    series = {
        name: [record[name] if is_finite(record.get(name)) else None for record in run.records]
        for name in names
        if name != "step"
    }
    return {
        "name": run.workdir.resolve().name,
        "steps": [record["step"] for record in run.records],
        "series": series,
        "bands": [list(band) for band in stage_bands(run.records)],
    }


def _evaluation(result: EvaluationResult) -> dict[str, object]:
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
                    ", ".join(f"{way} {value:.0%}" for way, value in row.ways.items()),
                ],
            }
            for row in found
        ],
    }  # fmt: skip


def _comparison(evaluations: Sequence[EvaluationResult]) -> dict[str, object] | None:
    """First against last evaluation, where both answered the same problems."""
    if len(evaluations) < 2:
        return None
    before, after = evaluations[0], evaluations[-1]
    try:
        changes = differences(before, after)
    except ValueError:
        return None  # other problems: the tables stand side by side, but no difference is made up
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
    pairs = [_pair(a, b) for a, b in zip(before.items, after.items, strict=True) if a.problem == b.problem]
    # What changed teaches most: newly right first, then newly wrong, then the rest.
    pairs.sort(key=lambda pair: -2 * pair["better"] - pair["worse"])
    return {"before": before.name, "after": after.name, "lines": lines, "pairs": pairs[:MOST_PAIRS]}


def _pair(before: Item, after: Item) -> dict[str, object]:
    first, last = ((item.greedy or item.sampled)[0] for item in (before, after))
    return {
        "problem": before.problem,
        "kind": kind_label(before.kind),
        "question": before.question,
        "solution": before.solution,
        "better": first.verdict != "correct" and last.verdict == "correct",
        "worse": first.verdict == "correct" and last.verdict != "correct",
        "before": _answer(first),
        "after": _answer(last),
    }


def _answer(sample: Sample) -> dict[str, object]:
    return sample._asdict() | {"marks": marks(sample.response)}

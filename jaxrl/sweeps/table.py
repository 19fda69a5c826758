"""The tables of a sweep: one row per setting, each the mean over its seeds."""

import math
from collections.abc import Sequence

from jaxrl.evaluation.intervals import Estimate, mean_over_seeds
from jaxrl.evaluation.results import ALL, MODES, EvaluationResult, Mode, Row, format_percent, rows
from jaxrl.reporting.run_folder import RunFolder
from jaxrl.reporting.terminal import duration
from jaxrl.tasks.problem import kind_label, kind_order

Outcome = tuple[str, int, RunFolder | None]
"""Setting, seed and the run; None if the run has not started."""
BeforeAfter = tuple[EvaluationResult, EvaluationResult]
"""The evaluations before and after training."""

_NOTE = (
    "Each number is a mean over n seeds, with Student's 95 % interval of that mean in brackets (one value per seed). "
    "With few seeds the interval is wide; for n = 1 there is none; seeds that happen to agree give it no width. The "
    "column `vs.` is the difference in accuracy after training, paired by seed on the same held-out problems."
)


def sweep_markdown(title: str, outcomes: Sequence[Outcome]) -> str:
    """A table of runs and times, then one table for each kind of problem and mode; settings in the order of `outcomes`.

    The means are over the runs that have both evaluations, before and after training.
    """
    settings = list(dict.fromkeys(setting for setting, _, _ in outcomes))
    results = before_and_after(outcomes)
    blocks = [f"# {title}", _times(settings, outcomes, results)]
    if results:
        blocks += [_NOTE, *_warning(results)]
    by_run = {
        run: tuple({(row.kind, row.mode): row for row in rows(result)} for result in pair)
        for run, pair in results.items()
    }
    keys = {key for _, after in by_run.values() for key in after}
    for kind, mode in sorted(keys, key=lambda key: (key[0] == ALL, kind_order(key[0]), MODES.index(key[1]))):
        pairs = {
            run: (before[kind, mode], after[kind, mode])
            for run, (before, after) in by_run.items()
            if (kind, mode) in before and (kind, mode) in after
        }
        blocks.append(_table(kind, mode, settings, pairs))
    return "\n\n".join(blocks) + "\n"


def before_and_after(outcomes: Sequence[Outcome]) -> dict[tuple[str, int], BeforeAfter]:
    """The evaluations before and after training by (setting, seed), for the runs that have both."""
    pairs = {}
    for setting, seed, run in outcomes:
        results = {result.name: result for result in run.evaluations} if run else {}
        if {"before", "after"} <= results.keys():
            pairs[setting, seed] = (results["before"], results["after"])
    return pairs


def _times(settings: Sequence[str], outcomes: Sequence[Outcome], results: dict[tuple[str, int], BeforeAfter]) -> str:
    lines = ["| setting | finished | steps | wall time of the steps |", "|---|---|---|---|"]
    for setting in settings:
        runs = [(seed, run) for name, seed, run in outcomes if name == setting]
        finished = [run for seed, run in runs if (setting, seed) in results]
        steps = sorted({int(run.records[-1]["step"]) for run in finished})
        seconds = [sum(record["time/step"] for record in run.records if record["step"]) for run in finished]
        time = duration(sum(seconds) / len(seconds)) if seconds else "-"
        lines.append(f"| {setting} | {len(finished)} of {len(runs)} | {', '.join(map(str, steps)) or '-'} | {time} |")
    return "\n".join(lines)


def _table(kind: str, mode: Mode, settings: Sequence[str], rows_by_run: dict[tuple[str, int], tuple[Row, Row]]) -> str:
    """One row per setting; differences are to the first setting that has a finished run."""
    by_setting = {
        name: {seed: pair for (setting, seed), pair in rows_by_run.items() if setting == name} for name in settings
    }
    by_setting = {name: pairs for name, pairs in by_setting.items() if pairs}
    first, base = next(iter(by_setting.items()))
    results = [row for _, row in rows_by_run.values()]
    constant_answer = sum(row.constant_answer_accuracy for row in results) / len(results)
    verified = all(row.sound for pair in rows_by_run.values() for row in pair)
    heads = ["setting", "n", "accuracy before", "accuracy after", f"vs. {first}", *["sound"] * verified]
    heads += ["well-formed", "bad format", "tokens"]
    lines = [
        f"## {'all kinds' if kind == ALL else kind_label(kind)}, {mode} "
        f"({results[0].problems} problems x {results[0].samples}, constant answer {constant_answer:.1%})",
        "",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    for name, pairs in by_setting.items():
        before, after = zip(*pairs.values(), strict=True)
        common = [seed for seed in pairs if seed in base]
        change = [pairs[seed][1].accuracy.value - base[seed][1].accuracy.value for seed in common]
        cells = (
            name,
            str(len(pairs)),
            _interval(mean_accuracy(before)),
            _interval(mean_accuracy(after)),
            "-" if name == first or not change else _points(mean_over_seeds(change)),
            *([" -> ".join(_interval(mean_accuracy(part, "sound")) for part in (before, after))] if verified else []),
            *(
                f"{format_percent(_mean(before, field))} -> {format_percent(_mean(after, field))}"
                for field in ("well_formed_accuracy", "format_errors")
            ),
            " -> ".join(f"{sum(row.mean_tokens for row in part) / len(part):.0f}" for part in (before, after)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def mean_accuracy(seeds: Sequence[Row], field: str = "accuracy") -> Estimate:
    """Mean over seeds with Student's interval, clipped to [0, 1]. field: "accuracy" or "sound"."""
    mean, low, high = mean_over_seeds([getattr(row, field).value for row in seeds])
    return Estimate(mean, low if math.isnan(low) else max(0.0, low), high if math.isnan(high) else min(1.0, high))


def _mean(seeds: Sequence[Row], field: str) -> float:
    """Mean over the seeds whose value is not nan (zero denominator); nan if there are none."""
    values = [value for row in seeds if not math.isnan(value := getattr(row, field).value)]
    return sum(values) / len(values) if values else math.nan


def _interval(estimate: Estimate) -> str:
    bounds = "" if math.isnan(estimate.low) else f" [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
    return f"{estimate.value:.1%}{bounds}"


def _points(estimate: Estimate) -> str:
    bounds = "" if math.isnan(estimate.low) else f" [{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"
    return f"{100 * estimate.value:+.1f}{bounds} points"


def _warning(results: dict[tuple[str, int], BeforeAfter]) -> list[str]:
    """A warning if runs of one seed were evaluated on different problems, or with different rules or settings."""
    setups: dict[int, set] = {}
    for (_, seed), pair in results.items():
        setups.setdefault(seed, set()).add(
            tuple(
                (result.rule, repr(sorted(result.settings.items())), tuple(item.problem for item in result.items))
                for result in pair
            )
        )
    seeds = [str(seed) for seed, different in sorted(setups.items()) if len(different) > 1]
    if not seeds:
        return []
    return [
        f"**Not comparable**: with seed {', '.join(seeds)} the settings were evaluated on different problems, with "
        "different rules or with different sampling."
    ]

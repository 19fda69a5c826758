"""The table of a sweep: settings side by side, each the mean over its seeds."""

import math
from collections.abc import Sequence

from jaxrl.evaluation.intervals import Estimate, mean_over_seeds
from jaxrl.evaluation.results import ALL, MODES, EvaluationResult, Mode, Row, percent, rows, share
from jaxrl.reporting.run_folder import Run
from jaxrl.reporting.terminal import duration
from jaxrl.sweeps.halving_decisions import Stop
from jaxrl.tasks.problem import kind_label, kind_order

Outcome = tuple[str, int, Run | None]
"""Setting, seed, and what its run left behind; None where it has not begun."""
Ends = tuple[EvaluationResult, EvaluationResult]
"""The evaluations before and after training."""

_NOTE = (
    "Each number is a mean over n seeds. In brackets stands Student's 95 % interval of that mean, in which every seed "
    "is one value: few seeds make it wide, n = 1 has none, and seeds that happen to agree leave it no width. The "
    "column `against` is the difference in accuracy after training, seed by seed on the same held-out problems."
)


def sweep_markdown(title: str, outcomes: Sequence[Outcome], stops: Sequence[Stop] = ()) -> str:
    """Runs and times by setting, then a table for each kind of problem and mode, settings in the order of `outcomes`.

    Only runs with both evaluations, before and after, are counted in the means. stops: settings that were not gone on
    with; they are told after the times, with what they had when they were stopped.
    """
    settings = list(dict.fromkeys(setting for setting, _, _ in outcomes))
    ends = finished_ends(outcomes)
    blocks = [f"# {title}", _times(settings, outcomes, ends), *_stopped(stops)]
    if ends:
        blocks += [_NOTE, *_warning(ends)]
    measured = {
        key: tuple({(row.kind, row.mode): row for row in rows(result)} for result in pair) for key, pair in ends.items()
    }
    places = {place for _, after in measured.values() for place in after}
    for kind, mode in sorted(places, key=lambda place: (place[0] == ALL, kind_order(place[0]), MODES.index(place[1]))):
        found = {
            key: (before[kind, mode], after[kind, mode])
            for key, (before, after) in measured.items()
            if (kind, mode) in before and (kind, mode) in after
        }
        blocks.append(_table(kind, mode, settings, found))
    return "\n\n".join(blocks) + "\n"


def finished_ends(outcomes: Sequence[Outcome]) -> dict[tuple[str, int], Ends]:
    """The evaluations before and after, by setting and seed, of the runs that have both."""
    return {(setting, seed): found for setting, seed, run in outcomes if run and (found := _ends(run))}


def _ends(run: Run) -> Ends | None:
    named = {result.name: result for result in run.evaluations}
    return (named["before"], named["after"]) if {"before", "after"} <= named.keys() else None


def _times(settings: Sequence[str], outcomes: Sequence[Outcome], ends: dict[tuple[str, int], Ends]) -> str:
    lines = ["| setting | finished | steps | wall time of the steps |", "|---|---|---|---|"]
    for setting in settings:
        mine = [(seed, run) for name, seed, run in outcomes if name == setting]
        done = [run for seed, run in mine if (setting, seed) in ends]
        steps = sorted({int(run.records[-1]["step"]) for run in done})
        seconds = [sum(record["time/step"] for record in run.records if record["step"]) for run in done]
        time = duration(sum(seconds) / len(seconds)) if seconds else "-"
        lines.append(f"| {setting} | {len(done)} of {len(mine)} | {', '.join(map(str, steps)) or '-'} | {time} |")
    return "\n".join(lines)


def _stopped(stops: Sequence[Stop]) -> list[str]:
    if not stops:
        return []
    lines = [
        "| stopped early | after step | held-out accuracy then | the worst that stayed | its accuracy then |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {stop.setting} | {stop.step} | {percent(stop.accuracy)} | {stop.kept} | {percent(stop.bar)} |"
        for stop in stops
    ]
    return [
        "\n".join(lines),
        "Accuracy here is over all kinds and seeds; its intervals know of problems and draws, "
        "not of seeds that were not run.",
    ]


def _table(kind: str, mode: Mode, settings: Sequence[str], found: dict[tuple[str, int], tuple[Row, Row]]) -> str:
    """One row a setting; differences are to the first setting that has a finished run."""
    by_setting = {name: {seed: pair for (setting, seed), pair in found.items() if setting == name} for name in settings}
    by_setting = {name: pairs for name, pairs in by_setting.items() if pairs}
    first, base = next(iter(by_setting.items()))
    one = next(iter(found.values()))[1]
    lines = [
        f"## {'all kinds' if kind == ALL else kind_label(kind)}, {mode} ({one.problems} problems x {one.samples})",
        "",
        f"| setting | n | accuracy before | accuracy after | against {first} | well-formed | bad format | tokens |",
        "|---|---|---|---|---|---|---|---|",
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
            *(
                f"{share(_mean(before, field))} -> {share(_mean(after, field))}"
                for field in ("well_formed_accuracy", "format_errors")
            ),
            " -> ".join(f"{sum(row.mean_tokens for row in part) / len(part):.0f}" for part in (before, after)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def mean_accuracy(part: Sequence[Row]) -> Estimate:
    """Mean over seeds with Student's interval, which keeps to what a share can be."""
    mean, low, high = mean_over_seeds([row.accuracy.value for row in part])
    return Estimate(mean, max(0.0, low) if low == low else low, min(1.0, high) if high == high else high)


def _mean(part: Sequence[Row], field: str) -> float:
    """Over the seeds where there is something to divide by; nan where there is none."""
    values = [value for row in part if not math.isnan(value := getattr(row, field).value)]
    return sum(values) / len(values) if values else math.nan


def _interval(estimate: Estimate) -> str:
    bounds = "" if math.isnan(estimate.low) else f" [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
    return f"{estimate.value:.1%}{bounds}"


def _points(estimate: Estimate) -> str:
    bounds = "" if math.isnan(estimate.low) else f" [{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"
    return f"{100 * estimate.value:+.1f}{bounds} points"


def _warning(ends: dict[tuple[str, int], Ends]) -> list[str]:
    """A sentence where runs of one seed were not asked the same in the same way, or began in different places."""
    asked: dict[int, set] = {}
    for (_, seed), pair in ends.items():
        asked.setdefault(seed, set()).add(
            tuple(
                (result.rule, repr(sorted(result.settings.items())), tuple(item.problem for item in result.items))
                for result in pair
            )
        )
    seeds = [str(seed) for seed, ways in sorted(asked.items()) if len(ways) > 1]
    if not seeds:
        return []
    return [
        f"**Not comparable**: with seed {', '.join(seeds)} the settings were evaluated on other problems, by other "
        "rules or with other sampling."
    ]

"""The result of an evaluation, and the tables made of it."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

from jaxrl.evaluation.intervals import (
    Estimate,
    PairedDifference,
    clustered_share,
    mean_pass_at_k,
    paired_difference,
)
from jaxrl.evaluation.published import PUBLISHED
from jaxrl.tasks.problem import kind_label, kind_order

Mode = Literal["greedy", "sampled"]
MODES: tuple[Mode, ...] = ("greedy", "sampled")
ALL = "all"  # the row over all kinds


class Sample(NamedTuple):
    """One answer. `response` is kept for the first sample of a problem and empty for the others."""

    verdict: str
    length: int  # tokens, the end token included
    finished: bool  # False: cut off by the length limit
    style: str
    response: str


class Item(NamedTuple):
    """One problem with all that the model answered."""

    problem: str  # its id
    kind: str
    question: str
    solution: str
    constant_answer_right: bool  # solved by the answer that looks at nothing
    greedy: tuple[Sample, ...]  # one, or none if greedy was not asked for
    sampled: tuple[Sample, ...]


@dataclass(frozen=True)
class EvaluationResult:
    """An evaluation as it is stored in `evaluations/<name>.json`. Everything else is computed from the
    items."""

    name: str
    model: str
    step: int
    rule: str
    settings: dict[str, object]
    items: tuple[Item, ...]


class Row(NamedTuple):
    """One line of the table: one kind of problem ("all": every one) in one mode."""

    kind: str
    mode: Mode
    problems: int
    samples: int  # a problem
    accuracy: Estimate
    well_formed_accuracy: Estimate  # among answers whose format is right, so that mended format is not reasoning
    format_errors: Estimate
    cut_off: float
    mean_tokens: float
    floor: float  # accuracy of the answer that looks at nothing, on these very problems
    pass_at: dict[int, Estimate]  # by k = 1, 2, 4, ... up to the samples; empty for greedy
    styles: dict[str, float]  # share of each way of answering; empty where nobody told them


def rows(result: EvaluationResult, confidence: float = 0.95) -> list[Row]:
    """The rows by kind, greedy before sampled; then those over all kinds if there are several."""
    kinds = sorted({item.kind for item in result.items}, key=kind_order)
    groups = [(kind, [item for item in result.items if item.kind == kind]) for kind in kinds]
    if len(kinds) > 1:
        groups.append((ALL, list(result.items)))
    return [
        _row(kind, mode, items, confidence)
        for kind, items in groups
        for mode in MODES
        if any(getattr(item, mode) for item in items)
    ]


def _row(kind: str, mode: Mode, items: Sequence[Item], confidence: float) -> Row:
    groups = [getattr(item, mode) for item in items]
    samples = [sample for group in groups for sample in group]
    correct = [sum(sample.verdict == "correct" for sample in group) for group in groups]
    broken = [sum(sample.verdict == "bad_format" for sample in group) for group in groups]
    sizes = [len(group) for group in groups]
    formed = [size - bad for size, bad in zip(sizes, broken, strict=True)]
    styles = Counter(sample.style for sample in samples if sample.style)
    each = sizes[0]
    powers = [2**i for i in range(each.bit_length()) if 2**i <= each] if mode == "sampled" else []
    return Row(
        kind=kind,
        mode=mode,
        problems=len(items),
        samples=each,
        accuracy=clustered_share(correct, sizes, confidence),
        well_formed_accuracy=clustered_share(correct, formed, confidence),
        format_errors=clustered_share(broken, sizes, confidence),
        cut_off=sum(not sample.finished for sample in samples) / len(samples),
        mean_tokens=sum(sample.length for sample in samples) / len(samples),
        floor=sum(item.constant_answer_right for item in items) / len(items),
        pass_at={k: mean_pass_at_k(correct, each, k, confidence) for k in powers},
        styles={style: styles[style] / len(samples) for style in sorted(styles)},
    )


def differences(
    before: EvaluationResult, after: EvaluationResult, confidence: float = 0.95
) -> dict[tuple[str, Mode], PairedDifference]:
    """after - before in accuracy by (kind, mode), over the same problems.

    ValueError when the two did not answer the same problems in the same order.
    """
    if [item.problem for item in before.items] != [item.problem for item in after.items]:
        raise ValueError(
            f"{before.name!r} and {after.name!r} were not measured on the same problems; evaluate both again with the "
            "same settings"
        )
    found = {}
    for row in rows(after, confidence):
        pairs = [
            (_share(getattr(a, row.mode)), _share(getattr(b, row.mode)))
            for a, b in zip(before.items, after.items, strict=True)
            if row.kind in (ALL, b.kind) and getattr(a, row.mode) and getattr(b, row.mode)
        ]
        if pairs:
            first, second = zip(*pairs, strict=True)
            found[row.kind, row.mode] = paired_difference(first, second, confidence)
    return found


def _share(samples: Sequence[Sample]) -> float:
    return sum(sample.verdict == "correct" for sample in samples) / len(samples)


def to_metrics(result: EvaluationResult) -> dict[str, float]:
    """`evaluation/<kind or all>/<mode>/<what>` for the step's metrics record."""
    record: dict[str, float] = {}
    for row in rows(result):
        prefix = f"evaluation/{row.kind}/{row.mode}"
        record[f"{prefix}/accuracy"] = row.accuracy.value
        record[f"{prefix}/format_errors"] = row.format_errors.value
        record[f"{prefix}/mean_tokens"] = row.mean_tokens
    return record


def to_json(result: EvaluationResult) -> str:
    """The result with its rows (for readers that do not compute) as JSON text; `from_json` is the inverse."""
    summary = [_plain(row._asdict()) for row in rows(result)]
    items = [
        item._asdict() | {mode: [sample._asdict() for sample in getattr(item, mode)] for mode in MODES}
        for item in result.items
    ]
    record = asdict(result) | {"items": items, "rows": summary}
    return json.dumps(record, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def from_json(text: str) -> EvaluationResult:
    """The result of `to_json`. ValueError when the text is something else."""
    try:
        record = json.loads(text)
        items = tuple(
            Item(**entry | {mode: tuple(Sample(**sample) for sample in entry[mode]) for mode in MODES})
            for entry in record["items"]
        )
        fields = {name: record[name] for name in ("name", "model", "step", "rule", "settings")}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"expected the JSON of an evaluation, got something else ({error!r})") from error
    return EvaluationResult(**fields, items=items)


def _plain(value: object) -> object:
    """Estimates as {"value", "low", "high"}, nan (nothing to divide by) as null."""
    if isinstance(value, Estimate):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def markdown(result: EvaluationResult, published: dict[str, dict[str, float]] = PUBLISHED) -> str:
    """The table of one evaluation, with the floor and the published numbers of other models beside it; below it what
    it cost, where a server counted the tokens."""
    lines = [
        "| kind | mode | problems x each | accuracy | well-formed | bad format | cut off | tokens | floor |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    found = rows(result)
    for row in found:
        cells = (
            kind_label(row.kind),
            row.mode,
            f"{row.problems} x {row.samples}",
            percent(row.accuracy),
            percent(row.well_formed_accuracy),
            percent(row.format_errors),
            f"{row.cut_off:.1%}",
            f"{row.mean_tokens:.0f}",
            f"{row.floor:.1%}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += _pass_lines(found)
    known = {kind for by_kind in published.values() for kind in by_kind}
    kinds = [kind for kind in dict.fromkeys(row.kind for row in found) if kind in known]
    if kinds:
        lines += ["", f"| published accuracy | {' | '.join(map(kind_label, kinds))} |"]
        lines += ["|---" * (len(kinds) + 1) + "|"]
        for model, by_kind in published.items():
            shown = [f"{by_kind[kind]:.0%}" if kind in by_kind else "-" for kind in kinds]
            lines.append(f"| {model} | {' | '.join(shown)} |")
    if "completion_tokens" in result.settings:
        prompts, answers = result.settings["prompt_tokens"], result.settings["completion_tokens"]
        lines += ["", f"cost: {prompts:,} tokens of prompts, {answers:,} of answers, as the server counted them"]
    return "\n".join(lines) + "\n"


def _pass_lines(found: Sequence[Row]) -> list[str]:
    """pass@k by kind, where more than one sample was drawn."""
    sampled = [row for row in found if len(row.pass_at) > 1]
    if not sampled:
        return []
    powers = list(sampled[0].pass_at)[1:]  # pass@1 is the accuracy above
    lines = ["", f"| pass@k | {' | '.join(map(str, powers))} |", "|---" * (len(powers) + 1) + "|"]
    return lines + [
        f"| {kind_label(row.kind)} | {' | '.join(percent(row.pass_at[k]) for k in powers)} |" for row in sampled
    ]


def comparison_markdown(before: EvaluationResult, after: EvaluationResult) -> str:
    """Before and after on the same problems: accuracy, the paired difference, formats and lengths."""
    first = {(row.kind, row.mode): row for row in rows(before)}
    changes = differences(before, after)
    lines = [
        f"| kind | mode | {before.name} | {after.name} | difference | well-formed | bad format | tokens |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows(after):
        key = (row.kind, row.mode)
        if key not in changes:
            continue
        old, change = first[key], changes[key]
        cells = (
            kind_label(row.kind),
            row.mode,
            percent(old.accuracy),
            percent(row.accuracy),
            f"{100 * change.value:+.1f} [{100 * change.low:+.1f}, {100 * change.high:+.1f}] points",
            f"{share(old.well_formed_accuracy.value)} -> {share(row.well_formed_accuracy.value)}",
            f"{share(old.format_errors.value)} -> {share(row.format_errors.value)}",
            f"{old.mean_tokens:.0f} -> {row.mean_tokens:.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def share(value: float) -> str:
    """0.417 -> "41.7%"; "-" where there is nothing to divide by."""
    return "-" if math.isnan(value) else f"{value:.1%}"


def percent(estimate: Estimate) -> str:
    """An estimate as "41.7% [38.0, 45.5]"."""
    if math.isnan(estimate.value):
        return "-"
    return f"{estimate.value:.1%} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"

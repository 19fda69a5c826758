"""The result of an evaluation, and the tables computed from it."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from jaxrl.evaluation.intervals import (
    Estimate,
    PairedDifference,
    clustered_proportion,
    mean_pass_at_k,
    paired_difference,
)
from jaxrl.tasks.problem import kind_label, kind_order
from jaxrl.tasks.published import COMPARABLE, PUBLISHED

Mode = Literal["greedy", "sampled"]
MODES: tuple[Mode, ...] = ("greedy", "sampled")
ALL = "all"  # the row over all kinds


class Sample(NamedTuple):
    """One response. The text is stored for the first sample of a problem only; it is empty for the others."""

    verdict: str
    length: int  # tokens, including the end token
    finished: bool  # False: truncated at the length limit
    style: str  # response style; "" if the task does not distinguish styles
    response: str
    sound: bool | None = None  # whether every step of the reasoning is right; None: the task could not verify it
    error: str = ""  # the kind of the first wrong step
    span: tuple[int, int] = (0, 0)  # characters of the response that hold the first wrong step

    @property
    def is_sound(self) -> bool:
        """Whether the response is correct, and its reasoning verified."""
        return self.verdict == "correct" and bool(self.sound)


class Item(NamedTuple):
    """One problem with all responses of the model."""

    problem: str  # its id
    kind: str
    question: str
    solution: str
    constant_answer_right: bool  # the constant-answer baseline solves this problem
    greedy: tuple[Sample, ...]  # one, or none without greedy decoding
    sampled: tuple[Sample, ...]


class Twin(NamedTuple):
    """A perturbed problem with all responses. original: the id of the problem that it differs from."""

    perturbation: str
    original: str
    item: Item


@dataclass(frozen=True)
class EvaluationResult:
    """An evaluation as stored in `evaluations/<name>.json`. All statistics are computed from the items.

    published: whether published accuracies of other models are for problems of the same distribution. twins: perturbed
    problems, which only the statistics of `jaxrl.evaluation.perturbation` use.
    """

    name: str
    model: str
    step: int
    rule: str
    settings: dict[str, object]
    items: tuple[Item, ...]
    published: bool = False
    twins: tuple[Twin, ...] = ()


class Row(NamedTuple):
    """One row of the table: one kind of problem ("all": every kind) in one mode."""

    kind: str
    mode: Mode
    problems: int
    samples: int  # per problem
    accuracy: Estimate
    well_formed_accuracy: Estimate  # among well-formed responses: separates reasoning from learning the format
    format_errors: Estimate
    truncated: float
    mean_tokens: float
    constant_answer_accuracy: float  # of the constant-answer baseline on the same problems
    pass_at: dict[int, Estimate]  # by k = 1, 2, 4, ... up to the number of samples; empty for greedy
    styles: dict[str, float]  # fraction of responses by style; empty if the task does not distinguish styles
    sound: Estimate | None  # correct by sound reasoning; None unless the task verified every response
    sound_pass_at: dict[int, Estimate]  # as pass_at, of responses that are correct by sound reasoning
    reasoning_errors: dict[str, float]  # fraction of responses by the kind of their first wrong step


def rows(result: EvaluationResult, confidence: float = 0.95) -> list[Row]:
    """The rows by kind, greedy before sampled; then the rows over all kinds if there are several."""
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
    malformed = [sum(sample.verdict == "bad_format" for sample in group) for group in groups]
    sizes = [len(group) for group in groups]
    well_formed = [size - count for size, count in zip(sizes, malformed, strict=True)]
    styles = Counter(sample.style for sample in samples if sample.style)
    group_size = sizes[0]
    powers = [2**i for i in range(group_size.bit_length())] if mode == "sampled" else []
    return Row(
        kind=kind,
        mode=mode,
        problems=len(items),
        samples=group_size,
        accuracy=clustered_proportion(correct, sizes, confidence),
        well_formed_accuracy=clustered_proportion(correct, well_formed, confidence),
        format_errors=clustered_proportion(malformed, sizes, confidence),
        truncated=sum(not sample.finished for sample in samples) / len(samples),
        mean_tokens=sum(sample.length for sample in samples) / len(samples),
        constant_answer_accuracy=sum(item.constant_answer_right for item in items) / len(items),
        pass_at={k: mean_pass_at_k(correct, group_size, k, confidence) for k in powers},
        styles={style: styles[style] / len(samples) for style in sorted(styles)},
        **_soundness(groups, powers, confidence),
    )


def _soundness(groups: Sequence[Sequence[Sample]], powers: Sequence[int], confidence: float) -> dict[str, Any]:
    """The fields of a row about reasoning. groups: the responses by problem."""
    samples = [sample for group in groups for sample in group]
    if any(sample.sound is None for sample in samples):
        return {"sound": None, "sound_pass_at": {}, "reasoning_errors": {}}
    sound, sizes = [sum(sample.is_sound for sample in group) for group in groups], [len(group) for group in groups]
    errors = Counter(sample.error for sample in samples if not sample.sound)
    return {
        "sound": clustered_proportion(sound, sizes, confidence),
        "sound_pass_at": {k: mean_pass_at_k(sound, sizes[0], k, confidence) for k in powers},
        "reasoning_errors": {error: count / len(samples) for error, count in errors.most_common()},
    }


def differences(
    before: EvaluationResult, after: EvaluationResult, confidence: float = 0.95
) -> dict[tuple[str, Mode], PairedDifference]:
    """after - before in accuracy by (kind, mode), paired by problem.

    Raises ValueError if the two were not evaluated on the same problems in the same order.
    """
    if [item.problem for item in before.items] != [item.problem for item in after.items]:
        raise ValueError(
            f"{before.name!r} and {after.name!r} were not evaluated on the same problems; evaluate both again with the "
            "same settings"
        )
    by_key = {}
    for row in rows(after, confidence):
        pairs = [
            (_accuracy(getattr(a, row.mode)), _accuracy(getattr(b, row.mode)))
            for a, b in zip(before.items, after.items, strict=True)
            if row.kind in (ALL, b.kind) and getattr(a, row.mode) and getattr(b, row.mode)
        ]
        if pairs:
            first, second = zip(*pairs, strict=True)
            by_key[row.kind, row.mode] = paired_difference(first, second, confidence)
    return by_key


def _accuracy(samples: Sequence[Sample]) -> float:
    return sum(sample.verdict == "correct" for sample in samples) / len(samples)


def to_metrics(result: EvaluationResult) -> dict[str, float]:
    """Metrics named `evaluation/<kind or all>/<mode>/<statistic>` for the record of the step."""
    record: dict[str, float] = {}
    for row in rows(result):
        prefix = f"evaluation/{row.kind}/{row.mode}"
        record[f"{prefix}/accuracy"] = row.accuracy.value
        if row.sound:
            record[f"{prefix}/sound"] = row.sound.value
        record[f"{prefix}/format_errors"] = row.format_errors.value
        record[f"{prefix}/mean_tokens"] = row.mean_tokens
    return record


def to_json(result: EvaluationResult) -> str:
    """The result as JSON text, with its rows for readers that do not compute them. Inverse: `from_json`."""
    summary = [_plain(row._asdict()) for row in rows(result)]
    items = list(map(_item_record, result.items))
    twins = [twin._asdict() | {"item": _item_record(twin.item)} for twin in result.twins]
    record = asdict(result) | {"items": items, "twins": twins, "rows": summary}
    return json.dumps(record, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def from_json(text: str) -> EvaluationResult:
    """The result that `to_json` wrote. Raises ValueError for other text."""
    try:
        record = json.loads(text)
        items = tuple(map(_item, record["items"]))
        twins = tuple(Twin(**entry | {"item": _item(entry["item"])}) for entry in record.get("twins", ()))
        fields = {name: record[name] for name in ("name", "model", "step", "rule", "settings")}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"expected the JSON of an evaluation, got something else ({error!r})") from error
    return EvaluationResult(**fields, items=items, published=record.get("published", False), twins=twins)


def _item_record(item: Item) -> dict[str, Any]:
    return item._asdict() | {mode: [sample._asdict() for sample in getattr(item, mode)] for mode in MODES}


def _item(entry: dict[str, Any]) -> Item:
    return Item(**entry | {mode: tuple(map(_sample, entry[mode])) for mode in MODES})


def _sample(entry: dict[str, Any]) -> Sample:
    """A stored response; results of earlier versions have no verified reasoning."""
    return Sample(**entry | {"span": tuple(entry.get("span", (0, 0)))})


def _plain(value: object) -> object:
    """Estimates as {"value", "low", "high"}, nan (zero denominator) as null."""
    if isinstance(value, Estimate):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def markdown(result: EvaluationResult) -> str:
    """The table of one evaluation, pass@k, first wrong steps of the reasoning, published accuracies of other models if
    they are for the same distribution, and the token counts of an evaluation over HTTP."""
    table = rows(result)
    verified = any(row.sound for row in table)
    heads = ["kind", "mode", "problems x samples", "accuracy", *["sound"] * verified, "well-formed", "bad format"]
    heads += ["truncated", "tokens", "constant answer"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in table:
        cells = (
            kind_label(row.kind),
            row.mode,
            f"{row.problems} x {row.samples}",
            format_estimate(row.accuracy),
            *[format_sound(row)] * verified,
            format_estimate(row.well_formed_accuracy),
            format_estimate(row.format_errors),
            f"{row.truncated:.1%}",
            f"{row.mean_tokens:.0f}",
            f"{row.constant_answer_accuracy:.1%}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += _pass_at_k_lines(table) + _reasoning_error_lines(table)
    lines += _published_lines(table) if result.published else []
    if "completion_tokens" in result.settings:
        prompt, completion = result.settings["prompt_tokens"], result.settings["completion_tokens"]
        lines += ["", f"cost: {prompt:,} prompt tokens and {completion:,} completion tokens, as counted by the server"]
    return "\n".join(lines) + "\n"


def _published_lines(table: Sequence[Row]) -> list[str]:
    """The published accuracies on the kinds of the table."""
    known = {kind for by_kind in PUBLISHED.values() for kind in by_kind}
    kinds = [kind for kind in dict.fromkeys(row.kind for row in table) if kind in known]
    if not kinds:
        return []
    lines = ["", COMPARABLE, "", f"| published accuracy | {' | '.join(map(kind_label, kinds))} |"]
    lines += ["|---" * (len(kinds) + 1) + "|"]
    for model, by_kind in PUBLISHED.items():
        cells = [f"{by_kind[kind]:.0%}" if kind in by_kind else "-" for kind in kinds]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return lines


def _pass_at_k_lines(table: Sequence[Row]) -> list[str]:
    """pass@k by kind, if there is more than one sample per problem. A constant answer has one value for every k."""
    sampled = [row for row in table if len(row.pass_at) > 1]
    if not sampled:
        return []
    powers = list(sampled[0].pass_at)[1:]  # pass@1 is the accuracy above
    lines = ["", f"| pass@k | {' | '.join(map(str, powers))} | constant answer |", "|---" * (len(powers) + 2) + "|"]
    for row in sampled:
        for name, by_k in (("", row.pass_at), (", sound", row.sound_pass_at)):
            cells = [kind_label(row.kind) + name, *(format_estimate(by_k[k]) for k in powers if by_k)]
            if by_k:
                lines.append(f"| {' | '.join(cells)} | {row.constant_answer_accuracy:.1%} |")
    return lines


def _reasoning_error_lines(table: Sequence[Row]) -> list[str]:
    """Shares of responses by the kind of the first wrong step, most frequent first, if the task verifies reasoning."""
    heads, lines = reasoning_error_table(table)
    if not lines:
        return []
    head, *body = (f"| {' | '.join(cells)} |" for cells in (heads, *lines))
    return ["", head, "|---" * len(heads) + "|", *body]


def reasoning_error_table(table: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Heads and lines: the kinds of first wrong steps by how many responses have them, and their shares by row.

    The rows of sampled responses, or of greedy ones if there are no others; without the rows over all kinds.
    """
    mode = "sampled" if any(row.mode == "sampled" for row in table) else "greedy"
    columns = [row for row in table if row.sound and row.mode == mode and row.kind != ALL]
    totals = Counter()
    for row in columns:
        totals.update({error: share * row.problems * row.samples for error, share in row.reasoning_errors.items()})
    heads = ["first wrong step", *(kind_label(row.kind) for row in columns)]
    return heads, [
        [error, *(f"{row.reasoning_errors.get(error, 0):.1%}" for row in columns)] for error, _ in totals.most_common()
    ]


def comparison_markdown(before: EvaluationResult, after: EvaluationResult) -> str:
    """Before and after on the same problems: accuracy, the paired difference, soundness, formats and lengths."""
    first = {(row.kind, row.mode): row for row in rows(before)}
    changes, table = differences(before, after), rows(after)
    verified = any(row.sound for row in (*table, *first.values()))
    heads = ["kind", "mode", before.name, after.name, "difference", *["sound"] * verified]
    heads += ["well-formed", "bad format", "tokens", "constant answer"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in table:
        key = (row.kind, row.mode)
        if key not in changes:
            continue
        old, change = first[key], changes[key]
        cells = (
            kind_label(row.kind),
            row.mode,
            format_estimate(old.accuracy),
            format_estimate(row.accuracy),
            f"{100 * change.value:+.1f} [{100 * change.low:+.1f}, {100 * change.high:+.1f}] points",
            *[f"{format_sound(old)} -> {format_sound(row)}"] * verified,
            f"{format_percent(old.well_formed_accuracy.value)} -> {format_percent(row.well_formed_accuracy.value)}",
            f"{format_percent(old.format_errors.value)} -> {format_percent(row.format_errors.value)}",
            f"{old.mean_tokens:.0f} -> {row.mean_tokens:.0f}",
            f"{row.constant_answer_accuracy:.1%}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def format_percent(value: float) -> str:
    """0.417 -> "41.7%"; nan (zero denominator) -> "-"."""
    return "-" if math.isnan(value) else f"{value:.1%}"


def format_sound(row: Row) -> str:
    """The sound accuracy of a row as `format_estimate`; "-" if the task did not verify the reasoning."""
    return format_estimate(row.sound) if row.sound else "-"


def format_estimate(estimate: Estimate) -> str:
    """An estimate as "41.7% [38.0, 45.5]"; nan -> "-"."""
    if math.isnan(estimate.value):
        return "-"
    return f"{estimate.value:.1%} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"

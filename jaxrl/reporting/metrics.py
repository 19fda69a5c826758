"""The table of all metric names, with their units and meanings."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple


class Metric(NamedTuple):
    """A metric, or a family of metrics if its name contains `<name>`.

    deterministic: False for times, speeds and memory. An exactly resumed run reproduces all others bit for bit.
    """

    name: str
    unit: str
    meaning: str
    deterministic: bool = True


METRICS: tuple[Metric, ...] = (
    Metric("step", "count", "training step, from 1; 0 is the state before training"),
    Metric("stage", "name", "stage of the recipe"),
    Metric("stage_step", "count", "step within the stage, from 1"),
    Metric("reward/mean", "reward", "mean total reward over the step's responses"),
    Metric("reward/format", "reward", "mean of the format part"),
    Metric("reward/answer", "reward", "mean of the answer part"),
    Metric(
        "reward/greedy", "reward", "mean reward of the greedy completions, where the algorithm uses them as baseline"
    ),
    Metric("share/correct", "share", "responses with the right format and the right answer"),
    Metric(
        "share/sound",
        "share",
        "correct responses in which the task verified every step of the reasoning; absent if it can't; never rewarded",
    ),
    Metric("share/wrong_answer", "share", "well-formed responses with a wrong answer"),
    Metric("share/unparseable", "share", "well-formed responses whose answer could not be parsed"),
    Metric("share/bad_format", "share", "responses that violate the format"),
    Metric(
        "share/truncated", "share", "responses truncated at the length limit (overlaps with the four verdicts above)"
    ),
    Metric("length/mean", "tokens", "mean response length, including the end-of-sequence token"),
    Metric("length/min", "tokens", "shortest response"),
    Metric("length/max", "tokens", "longest response"),
    Metric("length/p10", "tokens", "10th percentile of response length"),
    Metric("length/p50", "tokens", "median response length"),
    Metric("length/p90", "tokens", "90th percentile of response length"),
    Metric("length/correct", "tokens", "mean length of correct responses; absent without any"),
    Metric("length/wrong", "tokens", "mean length of all other responses; absent without any"),
    Metric(
        "length/wrong_answer", "tokens", "mean length of well-formed responses with a wrong answer; absent without any"
    ),
    Metric("length/unparseable", "tokens", "mean length of well-formed responses without a parseable answer, if any"),
    Metric("length/bad_format", "tokens", "mean length of responses that violate the format; absent without any"),
    Metric("groups/no_variance", "share", "groups with equal rewards for all responses, which give no gradient"),
    Metric("groups/collected", "count", "groups sampled in the step, with dynamic sampling (`drop_equal`)"),
    Metric("groups/dropped", "count", "sampled groups that were not used in the update"),
    Metric("groups/refills", "count", "additional rounds of sampling that replaced dropped groups"),
    Metric(
        "reasoning_errors/<name>",
        "share",
        "responses whose first wrong step of reasoning is of this kind; absent without any",
    ),
    Metric("suspects/<name>", "share", "responses that match a known reward hack"),
    Metric("behaviour/<name>", "share", "responses that show a behaviour"),
    Metric("behaviour/<name>/count", "count", "mean number of occurrences per response"),
    Metric(
        "behaviour/<name>/with",
        "share",
        "accuracy of the responses with the behaviour (`with_low`, `with_high`: 95 % interval, clustered by prompt)",
    ),
    Metric(
        "behaviour/<name>/without", "share", "accuracy of the other responses (`without_low`, `without_high`: 95 %)"
    ),
    Metric("loss/total", "loss", "the loss that is differentiated"),
    Metric("loss/policy", "loss", "policy term of the loss"),
    Metric("loss/kl", "nats per token", "estimate of KL(policy || reference), before its coefficient"),
    Metric(
        "ratio/mean",
        "ratio",
        "mean probability ratio of the policy to the old policy of the loss; 1 with one update per rollout",
    ),
    Metric("ratio/max", "ratio", "largest ratio of a token; 1 with one update per rollout"),
    Metric("ratio/clip_share", "share", "tokens with a clipped ratio; 0 with one update per rollout"),
    Metric("ratio/capped_share", "share", "tokens whose importance weight old / sampler was capped (`importance_cap`)"),
    Metric("critic/loss", "loss", "half the squared error of the critic, with clipped value updates"),
    Metric("critic/value", "reward", "mean predicted value over the sampled tokens"),
    Metric("critic/clip_share", "share", "tokens with a clipped value update"),
    Metric("critic/explained_variance", "share", "1 - var(returns - values) / var(returns), before the update"),
    Metric("critic/gradient_norm", "norm", "global gradient norm of the critic before clipping"),
    Metric("entropy", "nats per token", "mean entropy of the policy over the sampled tokens"),
    Metric(
        "mismatch/mean",
        "nats",
        "mean |sampler log-probability - learner log-probability|, before the rollout's first optimizer step",
    ),
    Metric("mismatch/max", "nats", "largest |sampler log-probability - learner log-probability|"),
    Metric("gradient_norm", "norm", "global gradient norm before clipping"),
    Metric("update_norm", "norm", "global norm of the parameter change"),
    Metric("flops/update", "FLOP", "model FLOPs of the update: no padding, no recomputation"),
    Metric("learning_rate", "rate", "learning rate of the step"),
    Metric("temperature", "temperature", "sampling temperature of the step"),
    Metric("kl_coefficient", "coefficient", "coefficient of the KL term"),
    Metric("tokens/rollout", "tokens", "tokens sampled in the step"),
    Metric("tokens/update", "tokens", "tokens processed by the update, including prompts, without padding"),
    Metric("tokens/padding_share", "share", "padding positions in the batches of the update"),
    Metric("tokens/slot_occupancy", "share", "decode steps of the sampler's slots that sampled a token"),
    Metric(
        "compiled/sampler",
        "programs",
        "programs compiled by the sampler since the start; grows with new lengths, not with new prompts",
        False,
    ),
    Metric(
        "compiled/update",
        "programs",
        "programs compiled by the update since the start, one for each batch shape",
        False,
    ),
    Metric("compiled/programs", "programs", "all programs compiled or loaded since the start of the process", False),
    Metric("compiled/loaded", "programs", "those loaded from the compilation cache (`compile_cache`)", False),
    Metric("compiled/seconds", "s", "time of compiling and loading since the start, in all threads", False),
    Metric("speed/rollout_tokens_per_second", "tokens/s", "sampled tokens per second of rollout", False),
    Metric(
        "speed/update_tokens_per_second", "tokens/s", "processed tokens per second of update, without padding", False
    ),
    Metric(
        "speed/update_mfu",
        "share",
        "model FLOPs utilization of the update: share of the devices' peak bfloat16 FLOP/s (known GPUs only)",
        False,
    ),
    Metric("speed/update_flops", "FLOP/s", "`flops/update` per second of update", False),
    Metric("time/rollout", "s", "wall time of sampling", False),
    Metric("time/reward", "s", "wall time of scoring", False),
    Metric("time/reference", "s", "wall time of reference and old log-probabilities", False),
    Metric("time/update", "s", "wall time of the update", False),
    Metric("time/step", "s", "wall time of the whole step", False),
    Metric("time/compile", "s", "wall time of the step in which it waited for the compiler; part of the others", False),
    Metric("time/<name>", "s", "wall time of another phase (evaluation, checkpoint)", False),
    Metric("memory/peak_bytes", "bytes", "peak memory since the start, on the device that uses most", False),
    Metric("evaluation/<name>", "", "held-out results after this step, for example `evaluation/p3/sampled/accuracy`"),
    Metric("guard/trips", "count", "number of earlier rollbacks by the guard"),
    Metric("guard/reseeds", "count", "number of earlier reseeds by the guard; the step's sampling seed depends on it"),
    Metric("guard/learning_rate_scale", "factor", "factor of the guard on all learning rates, including the critic's"),
    Metric("warnings", "sentences", "detected problems of this step; absent without any"),
)

FAMILY = "<name>"
EXACT: dict[str, Metric] = {metric.name: metric for metric in METRICS if FAMILY not in metric.name}
FAMILIES: dict[str, Metric] = {m.name.removesuffix(FAMILY): m for m in METRICS if m.name.endswith(FAMILY)}


def find_metric(name: str) -> Metric:
    """Looks up a metric or the family it belongs to. Raises KeyError for a name that is not in the table."""
    if name in EXACT:
        return EXACT[name]
    for prefix, metric in FAMILIES.items():
        if name.startswith(prefix) and len(name) > len(prefix):
            return metric
    raise KeyError(f"unknown metric {name!r}; add it to METRICS in jaxrl/reporting/metrics.py")


def error_name(error: str) -> str:
    """The kind of a wrong step of reasoning as part of a metric's name: "check: wrong role" -> "check_wrong_role"."""
    return re.sub(r"\W+", "_", error)


def check_record(record: Mapping[str, object]) -> None:
    """Raises ValueError unless `step` is an integer >= 0 and every name is in the table."""
    step = record.get("step")
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise ValueError(f"expected an integer 'step' of 0 or more in a metrics record, got {step!r}; set it")
    for name in record:
        try:
            find_metric(name)
        except KeyError as error:
            raise ValueError(error.args[0]) from None


def deterministic_part(record: Mapping[str, object]) -> dict[str, object]:
    """The record without times, speeds and memory: the part that an exactly resumed run reproduces bit for bit."""
    return {name: value for name, value in record.items() if find_metric(name).deterministic}


def markdown_table() -> str:
    """METRICS as the Markdown table of docs/metrics.md."""
    rows = ["| name | unit | meaning | deterministic |", "|---|---|---|---|"]
    for name, unit, meaning, exact in METRICS:
        rows.append(f"| `{name}` | {unit} | {meaning.replace('|', chr(92) + '|')} | {'yes' if exact else 'no'} |")
    return "\n".join(rows) + "\n"


def is_finite(value: object) -> bool:
    """Whether the value is a finite number (bool excluded)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

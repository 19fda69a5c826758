"""The one table of metric names: what a step's record may hold, in which unit, and what it means."""

import math
from collections.abc import Mapping
from typing import NamedTuple


class Metric(NamedTuple):
    """One name; with `<name>` in it, a family. `deterministic` is False for what a clock
    or the machine decides: an exactly resumed run repeats all the others bit for bit."""

    name: str
    unit: str
    meaning: str
    deterministic: bool = True


METRICS: tuple[Metric, ...] = (
    Metric("step", "count", "training step, from 1; 0 is the state before training"),
    Metric("stage", "name", "stage of the recipe that the step belongs to"),
    Metric("stage_step", "count", "number of the step in its stage, from 1"),
    Metric("reward/mean", "reward", "mean total reward of the step's responses"),
    Metric("reward/format", "reward", "mean of the format part"),
    Metric("reward/answer", "reward", "mean of the answer part"),
    Metric("reward/greedy", "reward", "mean reward of greedy completions, where the algorithm draws them"),
    Metric("share/correct", "share", "responses whose format and answer are right"),
    Metric("share/wrong_answer", "share", "well-formed responses with a wrong answer"),
    Metric("share/unparseable", "share", "well-formed responses whose answer can't be read"),
    Metric("share/bad_format", "share", "responses whose format is broken"),
    Metric(
        "share/cut_off",
        "share",
        "responses that reached the length limit without ending (overlaps the four above)",
    ),
    Metric("length/mean", "tokens", "mean response length, the end token included"),
    Metric("length/min", "tokens", "shortest response"),
    Metric("length/max", "tokens", "longest response"),
    Metric("length/p10", "tokens", "10th percentile of response length"),
    Metric("length/p50", "tokens", "median response length"),
    Metric("length/p90", "tokens", "90th percentile of response length"),
    Metric("length/correct", "tokens", "mean length of correct responses; absent when there is none"),
    Metric("length/wrong", "tokens", "mean length of all other responses; absent when there is none"),
    Metric("length/wrong_answer", "tokens", "mean length of well-formed responses with a wrong answer, if any"),
    Metric("length/unparseable", "tokens", "mean length of well-formed ones whose answer can't be read, if any"),
    Metric("length/bad_format", "tokens", "mean length of responses whose format is broken, if any"),
    Metric(
        "groups/no_variance",
        "share",
        "groups whose responses all got the same reward, so that they teach nothing",
    ),
    Metric("groups/drawn", "count", "groups drawn in the step, where those that teach nothing are dropped"),
    Metric("groups/dropped", "count", "groups drawn that the update did not learn from"),
    Metric("groups/refills", "count", "how often the step asked other problems in their place"),
    Metric("suspects/<name>", "share", "responses that look like a known way of fooling the reward"),
    Metric("behaviour/<name>", "share", "responses that show a behaviour"),
    Metric("behaviour/<name>/count", "count", "how often a response shows it, on average"),
    Metric(
        "behaviour/<name>/with",
        "share",
        "correct among the responses with it (`with_low`, `with_high`: 95 %, a prompt's responses as a cluster)",
    ),
    Metric("behaviour/<name>/without", "share", "correct among the others (`without_low`, `without_high`: 95 %)"),
    Metric("loss/total", "loss", "the loss whose gradient is taken"),
    Metric("loss/policy", "loss", "its policy part"),
    Metric("loss/kl", "nats a token", "estimate of KL(policy || reference), before its coefficient"),
    Metric(
        "ratio/mean",
        "ratio",
        "mean probability ratio of the policy to the one that the loss calls old; "
        "1 expected with one update a rollout, and no sign of a fault",
    ),
    Metric("ratio/max", "ratio", "largest ratio of a token; 1 expected with one update a rollout"),
    Metric("ratio/clip_share", "share", "tokens whose ratio was clipped; 0 expected with one update a rollout"),
    Metric("ratio/capped_share", "share", "tokens whose weight old / sampler was cut off, with importance_cap"),
    Metric("critic/loss", "loss", "half the squared error of the critic, clipped as its updates are"),
    Metric("critic/value", "reward", "mean of its values over the sampled tokens"),
    Metric("critic/clip_share", "share", "tokens whose value counted only as far as clipping let it move"),
    Metric("critic/explained_variance", "share", "1 - var(returns - values) / var(returns) before the update"),
    Metric("critic/gradient_norm", "norm", "global gradient norm of the critic before clipping"),
    Metric("entropy", "nats a token", "mean entropy of the policy over the sampled tokens"),
    Metric(
        "mismatch/mean",
        "nats",
        "mean of |sampler log-probability - learner log-probability|, both before the rollout's first optimizer step",
    ),
    Metric("mismatch/max", "nats", "largest of them"),
    Metric("gradient_norm", "norm", "global gradient norm before clipping"),
    Metric("update_norm", "norm", "global norm of the change of the parameters"),
    Metric("flops/update", "FLOP", "operations of the model in the update, nothing counted twice or for padding"),
    Metric("learning_rate", "rate", "learning rate of the step"),
    Metric("temperature", "temperature", "sampling temperature of the step"),
    Metric("kl_coefficient", "coefficient", "weight of the KL term"),
    Metric("tokens/rollout", "tokens", "tokens sampled in the step"),
    Metric("tokens/update", "tokens", "true tokens, prompts included, that the update read"),
    Metric("tokens/padding_share", "share", "positions of the update's batches that were padding"),
    Metric("tokens/slot_occupancy", "share", "decode steps of the sampler's slots that drew a token"),
    Metric(
        "compiled/sampler", "programs", "compiled by the sampler since the start: new lengths, not new prompts", False
    ),
    Metric("compiled/update", "programs", "compiled by the update since the start: one for each shape", False),
    Metric("speed/rollout_tokens_per_second", "tokens/s", "sampled tokens a second while sampling", False),
    Metric("speed/update_tokens_per_second", "tokens/s", "true tokens a second while updating", False),
    Metric(
        "speed/update_mfu",
        "share",
        "operations that the update needs, of those that the devices are sold with (bfloat16 on GPUs of a known kind)",
        False,
    ),
    Metric("speed/update_flops", "FLOP/s", "flops/update a second while updating", False),
    Metric("time/rollout", "s", "wall time of sampling", False),
    Metric("time/reward", "s", "wall time of scoring", False),
    Metric("time/reference", "s", "wall time of reference and old log-probabilities", False),
    Metric("time/update", "s", "wall time of the update", False),
    Metric("time/step", "s", "wall time of the whole step", False),
    Metric("time/<name>", "s", "wall time of another phase (evaluation, checkpoint)", False),
    Metric("memory/peak_bytes", "bytes", "largest memory in use on the fullest device since the start", False),
    Metric("evaluation/<name>", "", "held-out numbers after this step, such as `evaluation/p3/sampled/accuracy`"),
    Metric("guard/trips", "count", "how often the guard had undone steps of the run before this one"),
    Metric("guard/draw", "count", "how often it had changed the draws: the seed of the step follows from it"),
    Metric("guard/rate", "factor", "what it multiplies all learning rates by, the critic's too"),
    Metric("warnings", "sentences", "what is wrong with this step, in words; absent when nothing is"),
)

FAMILY = "<name>"
EXACT: dict[str, Metric] = {metric.name: metric for metric in METRICS if FAMILY not in metric.name}
FAMILIES: dict[str, Metric] = {m.name.removesuffix(FAMILY): m for m in METRICS if m.name.endswith(FAMILY)}


def find(name: str) -> Metric:
    """The metric of a name, or the family it belongs to. KeyError for a name that the table does not have."""
    if name in EXACT:
        return EXACT[name]
    for prefix, metric in FAMILIES.items():
        if name.startswith(prefix) and len(name) > len(prefix):
            return metric
    raise KeyError(f"no metric is called {name!r}; add it to METRICS in jaxrl/reporting/metrics.py")


def check(record: Mapping[str, object]) -> None:
    """Raises ValueError unless the record has a whole step >= 0 and every name is in the table."""
    step = record.get("step")
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise ValueError(f"a metrics record needs a whole 'step' from 0 up, got {step!r}")
    for name in record:
        try:
            find(name)
        except KeyError as error:
            raise ValueError(error.args[0]) from None


def deterministic(record: Mapping[str, object]) -> dict[str, object]:
    """The record without timings, speeds and memory: what an exactly resumed run must repeat bit for bit."""
    return {name: value for name, value in record.items() if find(name).deterministic}


def markdown_table() -> str:
    """METRICS as the table of docs/metrics.md."""
    rows = ["| name | unit | meaning | repeats exactly |", "|---|---|---|---|"]
    for name, unit, meaning, exact in METRICS:
        rows.append(f"| `{name}` | {unit} | {meaning.replace('|', chr(92) + '|')} | {'yes' if exact else 'no'} |")
    return "\n".join(rows) + "\n"


def is_finite(value: object) -> bool:
    """True for a number that can be drawn: not None, not text, not nan, not infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

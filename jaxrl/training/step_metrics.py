"""The metrics of a step, by their names in docs/metrics.md, and the warnings that follow from them."""

import resource
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxrl.reporting.behaviours import behaviour_metrics, count_behaviours
from jaxrl.reporting.metrics import error_name
from jaxrl.rewards import SUSPECTS, VERDICTS
from jaxrl.runtime.compilation import compile_monitor
from jaxrl.runtime.hardware import peak_flops
from jaxrl.tasks.task import Reasoning
from jaxrl.training.components import Components
from jaxrl.training.guard import TRY_FLOAT32
from jaxrl.training.progress import StepPlan
from jaxrl.training.rollout import Rollout
from jaxrl.training.run_spec import RunSpec
from jaxrl.training.stage_spec import StageSpec
from jaxrl.training.step import Collected
from jaxrl.training.timing import PhaseTimer

_UPDATE_NAMES = {
    "loss": "loss/total",
    "policy_loss": "loss/policy",
    "kl": "loss/kl",
    "ratio_mean": "ratio/mean",
    "ratio_max": "ratio/max",
    "clip_share": "ratio/clip_share",
    "entropy": "entropy",
    "logp_gap_mean": "mismatch/mean",
    "logp_gap_max": "mismatch/max",
    "grad_norm": "gradient_norm",
    "update_norm": "update_norm",
    "tokens": "tokens/update",
    "padding_share": "tokens/padding_share",
    "model_flops": "flops/update",
    "importance_capped_share": "ratio/capped_share",
    "value_loss": "critic/loss",
    "value_mean": "critic/value",
    "value_clip_share": "critic/clip_share",
    "critic_grad_norm": "critic/gradient_norm",
    "explained_variance": "critic/explained_variance",
}

# Learning rates at which runs have collapsed: small models in docs/negative_results.md, 7B in the published recipe.
_LARGE_MODEL = 100_000_000  # parameters
_RISKY_LEARNING_RATE = {False: 3e-4, True: 1e-6}  # by whether the model is large
_SAMPLER_METRICS = ("tokens/slot_occupancy", "speed/rollout_tokens_per_second")


def step_record(
    spec: RunSpec,
    components: Components,
    plan: StepPlan,
    collected: Collected,
    info: Mapping[str, Any],
    timer: PhaseTimer,
    *,
    sampled: bool,
) -> dict[str, Any]:
    """All metrics of a step: one line of metrics.jsonl.

    info: as `Update` returns it. sampled: whether a sampler wrote the responses; else its metrics are left out.
    """
    record = {
        "step": plan.step,
        "stage": plan.stage.name,
        "stage_step": plan.stage_step + 1,
        "guard/reseeds": plan.reseeds,
        "guard/learning_rate_scale": plan.learning_rate_scale,
        "learning_rate": plan.learning_rate,
        "temperature": plan.temperature,
        "kl_coefficient": plan.stage.kl_coefficient,
    }
    record |= rollout_metrics(collected.rollout) | update_metrics(info)
    if spec.algorithm.loss.drop_equal:
        count = len(collected.rollout.problems)
        record |= {
            "groups/collected": count,
            "groups/dropped": count - len(collected.groups),
            "groups/refills": collected.refills,
        }
    if found := warnings(record):
        record["warnings"] = found
    record |= {f"time/{phase}": seconds for phase, seconds in timer.seconds.items()} | {"time/step": timer.total}
    record["time/compile"] = timer.compiling
    record |= _speed_metrics(record, spec, components)
    return {name: value for name, value in record.items() if sampled or name not in _SAMPLER_METRICS}


def _speed_metrics(record: Mapping[str, Any], spec: RunSpec, components: Components) -> dict[str, float]:
    devices = components.mesh.devices
    metrics = {
        "speed/rollout_tokens_per_second": record["tokens/rollout"] / record["time/rollout"],
        "speed/update_tokens_per_second": record["tokens/update"] / record["time/update"],
        "speed/update_flops": record["flops/update"] / record["time/update"],
        "memory/peak_bytes": _peak_bytes(),
        "compiled/sampler": sum(components.sampler.traces.values()),
        "compiled/update": sum(components.update.traces.values()),
    }
    totals = compile_monitor().totals()
    metrics |= {f"compiled/{name}": getattr(totals, name) for name in ("programs", "loaded", "seconds")}
    if peak := peak_flops(devices.flat[0].device_kind, spec.model.dtype):
        metrics["speed/update_mfu"] = metrics["speed/update_flops"] / (devices.size * peak)
    return metrics


def _peak_bytes() -> int:
    """Peak memory so far: of the fullest device, or of this process if devices do not report theirs."""
    peaks = [stats["peak_bytes_in_use"] for device in jax.local_devices() if (stats := device.memory_stats())]
    return max(peaks) if peaks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def rollout_metrics(rollout: Rollout) -> dict[str, float]:
    """Rewards, verdict shares, soundness, lengths, suspects and behaviours of a rollout."""
    verdicts, lengths, rewards = rollout.verdicts, rollout.completions.lengths, rollout.rewards
    names = np.array([verdict.verdict for verdict in verdicts])
    correct = names == "correct"
    counts = Counter(verdict.verdict for verdict in verdicts)
    suspects = Counter(name for verdict in verdicts for name in verdict.suspects)
    percentiles = np.percentile(lengths, (10, 50, 90))
    metrics = {
        "reward/mean": float(rewards.mean()),
        "reward/format": float(np.mean([verdict.format_reward for verdict in verdicts])),
        "reward/answer": float(np.mean([verdict.answer_reward for verdict in verdicts])),
        **{f"share/{name}": counts[name] / len(verdicts) for name in VERDICTS},
        **soundness_metrics(rollout.reasoning, correct),
        "share/truncated": float(1 - rollout.completions.finished.mean()),
        "length/mean": float(lengths.mean()),
        "length/min": int(lengths.min()),
        "length/max": int(lengths.max()),
        **{f"length/p{name}": float(value) for name, value in zip((10, 50, 90), percentiles, strict=True)},
        **{f"suspects/{name}": suspects[name] / len(verdicts) for name in SUSPECTS},
        "tokens/rollout": int(lengths.sum()),
        "tokens/slot_occupancy": rollout.completions.occupancy,
    }
    metrics |= {f"length/{name}": float(lengths[names == name].mean()) for name in VERDICTS if counts[name]}
    if not correct.all():
        metrics["length/wrong"] = float(lengths[~correct].mean())
    group = rewards.shape[1]
    if group > 1:
        metrics["groups/no_variance"] = float((rewards.max(axis=1) == rewards.min(axis=1)).mean())
    if rollout.greedy is not None:
        metrics["reward/greedy"] = float(rollout.greedy.mean())
    behaviour_counts = [
        count_behaviours(response, names=rollout.problems[row // group].names)
        for row, response in enumerate(rollout.responses)
    ]
    return metrics | behaviour_metrics(behaviour_counts, correct, group)


def soundness_metrics(reasoning: Sequence[Reasoning | None], correct: np.ndarray) -> dict[str, float]:
    """The share of responses that are correct and soundly reasoned, and where reasoning first goes wrong.

    Empty unless the task has verified every response. correct: whether the verdict of each response is correct.
    """
    if not reasoning or None in reasoning:
        return {}
    sound = np.array([each.sound for each in reasoning])
    errors = Counter(each.error for each in reasoning if not each.sound)
    shares = {f"reasoning_errors/{error_name(error)}": errors[error] / len(reasoning) for error in sorted(errors)}
    return {"share/sound": float((sound & correct).mean())} | shares


def update_metrics(info: Mapping[str, Any]) -> dict[str, float]:
    """The info of `Update` by the metric names of docs/metrics.md; entries without such a name are left out."""
    return {name: float(info[key]) for key, name in _UPDATE_NAMES.items() if key in info}


def stage_warnings(stage: StageSpec, parameters: int, adapters: bool) -> list[str]:
    """Warnings about a stage's settings before it begins.

    parameters: size of the model. adapters: whether only adapters are trained; these take about ten times the learning
    rate of full fine-tuning, and it is not known at which value they collapse.
    """
    highest, risky = stage.learning_rate.value, _RISKY_LEARNING_RATE[parameters >= _LARGE_MODEL]
    if highest < risky or adapters:
        return []
    return [
        f"{stage.name} has a learning rate of {highest:.0e}; models of this size have collapsed from {risky:.0e} on: "
        "lower learning_rate if the KL or the format errors rise."
    ]


def warnings(record: Mapping[str, Any]) -> list[str]:
    """Warnings about the metrics of a step, each with what to do; empty if nothing is wrong."""
    found = []
    if record.get("groups/no_variance") == 1:
        found.append(
            "all samples of every problem got the same reward, so there was nothing to learn from; use easier "
            "problems, more samples or a higher temperature."
        )
    if record["share/truncated"] == 1:
        found.append(
            "every response was truncated; raise sampling.max_new_tokens, or check that the model's end token is the "
            "tokenizer's."
        )
    elif record["share/truncated"] > 0.5:
        found.append(
            f"{record['share/truncated']:.0%} of the responses were truncated and got the reward of a format error; "
            "raise sampling.max_new_tokens."
        )
    if record["share/bad_format"] == 1:
        found.append(
            "every response had a format error; read some in rollouts/ and check prompt.form and prompt.opens_think."
        )
    if record.get("mismatch/mean", 0.0) > 0.1:
        found.append(
            f"log-probabilities of sampler and learner differ by {record['mismatch/mean']:.2f} nats per token on "
            f"average; {TRY_FLOAT32}"
        )
    return found


def suspect_warnings(record: Mapping[str, Any], share: float) -> list[str]:
    """Warnings about known tricks that more than this share of a step's responses resemble (0: no warnings)."""
    found = {
        name: record[f"suspects/{name}"] for name in SUSPECTS if name != "truncated"
    }  # truncation warns on its own
    return [
        f"{value:.0%} of the responses resemble a known way to fool the reward ({name}); read some in rollouts/, and "
        "choose a stricter reward.rule if they are rewarded."
        for name, value in found.items()
        if 0 < share < value
    ]

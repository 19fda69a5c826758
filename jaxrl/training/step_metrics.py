"""A step's numbers under the names of the metrics table, and what they mean in words where something is wrong."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrl.reporting import behaviours
from jaxrl.rewards import SUSPECTS, VERDICTS
from jaxrl.training.guard import TRY_FLOAT32
from jaxrl.training.rollout import Rollout
from jaxrl.training.run_spec import StageSpec

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

# Rates at which runs are known to have collapsed: small models in LOG.md, 7B on such puzzles in the recipe's report.
_LARGE, _RISKY_RATE = 100_000_000, {False: 3e-4, True: 1e-6}


def rollout_metrics(rollout: Rollout) -> dict[str, float]:
    """Rewards, shares, lengths, suspects and behaviours of one rollout."""
    verdicts, lengths = rollout.verdicts, rollout.completions.lengths
    correct = np.array([verdict.verdict == "correct" for verdict in verdicts])
    counts = Counter(verdict.verdict for verdict in verdicts)
    suspects = Counter(name for verdict in verdicts for name in verdict.suspects)
    rewards = rollout.rewards
    percentiles = np.percentile(lengths, (10, 50, 90))
    metrics = {
        "reward/mean": float(rewards.mean()),
        "reward/format": float(np.mean([verdict.format_reward for verdict in verdicts])),
        "reward/answer": float(np.mean([verdict.answer_reward for verdict in verdicts])),
        **{f"share/{name}": counts[name] / len(verdicts) for name in VERDICTS},
        "share/cut_off": float(1 - rollout.completions.finished.mean()),
        "length/mean": float(lengths.mean()),
        "length/min": int(lengths.min()),
        "length/max": int(lengths.max()),
        **{f"length/p{name}": float(value) for name, value in zip((10, 50, 90), percentiles, strict=True)},
        **{f"suspects/{name}": suspects[name] / len(verdicts) for name in SUSPECTS},
        "tokens/rollout": int(lengths.sum()),
        "tokens/slot_occupancy": rollout.completions.occupancy,
    }
    given = np.array([verdict.verdict for verdict in verdicts])
    metrics |= {f"length/{name}": float(lengths[given == name].mean()) for name in VERDICTS if counts[name]}
    if rewards.shape[1] > 1:
        metrics["groups/no_variance"] = float((rewards.max(axis=1) == rewards.min(axis=1)).mean())
    if rollout.greedy is not None:
        metrics["reward/greedy"] = float(rollout.greedy.mean())
    if not correct.all():
        metrics["length/wrong"] = float(lengths[~correct].mean())
    group = rewards.shape[1]
    shown = [
        behaviours.count(response, names=rollout.problems[row // group].names)
        for row, response in enumerate(rollout.responses)
    ]
    return metrics | behaviours.summarize(shown, correct, group)


def update_metrics(info: Mapping[str, Any]) -> dict[str, float]:
    """The update's measures under the names of the table."""
    return {name: float(info[key]) for key, name in _UPDATE_NAMES.items() if key in info}


def stage_warnings(stage: StageSpec, parameters: int, adapters: bool) -> list[str]:
    """What may go wrong with a stage of a model of so many parameters, all learning or only adapters, before it begins.

    Adapters take about ten times the rate of a full update, and no rate is known from which on they collapse.
    """
    highest, risky = stage.learning_rate.value, _RISKY_RATE[parameters >= _LARGE]
    if highest < risky or adapters:
        return []
    return [
        f"{stage.name} has a rate of {highest:.0e}; from {risky:.0e} on, models of this size have collapsed: lower "
        "learning_rate if the KL or the format errors rise."
    ]


def warnings(record: Mapping[str, Any]) -> list[str]:
    """What is wrong with a step, in words with what to do; empty when nothing is."""
    found = []
    if record.get("groups/no_variance") == 1:
        found.append(
            "every group got one and the same reward, so there was nothing to learn from; use easier puzzles, "
            "more samples or a higher temperature."
        )
    if record["share/cut_off"] == 1:
        found.append(
            "no response ended by itself: all were cut off; raise sampling.max_new_tokens, or check that the "
            "model's end token is the tokenizer's."
        )
    elif record["share/cut_off"] > 0.5:
        found.append(
            f"{record['share/cut_off']:.0%} of the responses were cut off and punished for it; raise "
            "sampling.max_new_tokens."
        )
    if record["share/bad_format"] == 1:
        found.append(
            "every response was badly formed; read some in rollouts/ and check prompt.form and prompt.opens_think."
        )
    if record.get("mismatch/mean", 0.0) > 0.1:
        found.append(
            f"sampler and learner disagree by {record['mismatch/mean']:.2f} nats a token on average; {TRY_FLOAT32}"
        )
    return found


def suspect_warnings(record: Mapping[str, Any], share: float) -> list[str]:
    """Which tricks more than this share of a step's responses look like (0: nothing is said), in words."""
    found = {name: record[f"suspects/{name}"] for name in SUSPECTS if name != "cut_off"}  # it has its own warning
    return [
        f"{value:.0%} of the responses look like a known way of fooling the reward ({name}); read some in "
        "rollouts/, and choose a stricter reward.rule if they are rewarded."
        for name, value in found.items()
        if 0 < share < value
    ]

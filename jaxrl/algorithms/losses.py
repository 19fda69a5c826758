"""Policy losses: a surrogate per token, and one denominator for the whole optimizer step."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrl.algorithms import kl as kls
from jaxrl.algorithms.advantages import ADVANTAGES
from jaxrl.algorithms.batch import Batch, Totals, totals_of
from jaxrl.algorithms.masked import hide, masked_max, masked_sum, row_mean

REDUCTIONS = ("token_mean", "sequence_mean", "sequence_sum", "fixed_length")
PLACEMENTS = ("none", "loss", "reward")


@dataclasses.dataclass(frozen=True)
class LossSpec:
    """An algorithm as data: advantage x surrogate x reduction x KL.

    advantage: a name in `advantages.ADVANTAGES`.
    surrogate: a name in `SURROGATES`.
    reduction: "token_mean" (sum over tokens / tokens of the step), "sequence_mean" (mean over a row's tokens,
      then over the rows of the step), "sequence_sum" (sum over tokens / rows of the step), "fixed_length"
      (the same / `max_length`, Dr.GRPO).
    clip_low, clip_high: the ratio is kept in [1 - clip_low, 1 + clip_high]; CISPO uses the upper bound only.
    dual_clip: for negative advantages the loss is at most -A * dual_clip (off: None; above 1, the usual value is 3).
    kl, kl_placement: estimator "k1" "k2" "k3", and where it enters: "none", "loss", "reward".
    kl_coefficient: a default; an update may pass a traced value instead.
    entropy_coefficient: of a bonus for entropy; its gradient costs memory bandwidth over the vocabulary (off: 0).
    importance_cap: truncated importance sampling, weight min(old / sample, cap) (off: None).
    max_length: new tokens at most, for "fixed_length".
    gamma, lam: discount of later rewards, and of later advantages in `advantages.gae`.
    value_clip: the critic's values are kept within so much of the old ones, as the ratio is (off: None).
    drop_equal: whether groups whose samples all got the same reward are left out of the update.
    refills: how often a step asks other problems at most, in place of those (DAPO's dynamic sampling).
    overlong_buffer: share of the limit of new tokens over which a penalty for length grows to 1, see
      `advantages.overlong_penalty` (off: 0).
    """

    advantage: str = "group_zscore"
    surrogate: str = "clip"
    reduction: str = "token_mean"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    kl: str = "k3"
    kl_placement: str = "loss"
    kl_coefficient: float = 0.001
    entropy_coefficient: float = 0.0
    importance_cap: float | None = None
    max_length: int = 0
    gamma: float = 1.0
    lam: float = 1.0
    value_clip: float | None = None
    drop_equal: bool = False
    refills: int = 0
    overlong_buffer: float = 0.0

    def __post_init__(self):
        _expect("advantage", self.advantage, ADVANTAGES)
        _expect("surrogate", self.surrogate, SURROGATES)
        _expect("reduction", self.reduction, REDUCTIONS)
        _expect("kl", self.kl, kls.ESTIMATORS)
        _expect("kl_placement", self.kl_placement, PLACEMENTS)
        if self.kl == "k1" and self.kl_placement == "loss":
            raise ValueError("k1 in the loss has no gradient in expectation; use k3 or k2, or kl_placement='reward'")
        if self.reduction == "fixed_length" and self.max_length < 1:
            raise ValueError(
                f"reduction 'fixed_length' divides by max_length: expected 1 or more, got {self.max_length}; "
                "set it to the largest number of new tokens"
            )
        for field in ("gamma", "lam", "overlong_buffer"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"{field}: expected 0 to 1, got {getattr(self, field)}")
        for field, least in (("dual_clip", 1), ("importance_cap", 0), ("value_clip", 0)):
            if getattr(self, field) is not None and not getattr(self, field) > least:
                raise ValueError(f"{field}: expected above {least}, or None for none, got {getattr(self, field)}")
        # Else tokens of one sign lose their gradient at ratio 1, at 0 a part of it; or a penalty rewards.
        if not 0 < self.clip_low <= 1:
            raise ValueError(f"clip_low: expected above 0, up to 1, got {self.clip_low}")
        if not self.clip_high > 0:
            raise ValueError(f"clip_high: expected above 0, got {self.clip_high}")
        if not 0 <= self.kl_coefficient < math.inf:
            raise ValueError(f"kl_coefficient: expected 0 or more, got {self.kl_coefficient}")
        if not math.isfinite(self.entropy_coefficient):
            raise ValueError(f"entropy_coefficient: expected a number, got {self.entropy_coefficient}")
        if self.refills < 0 or (self.refills and not self.drop_equal):
            raise ValueError(
                f"refills={self.refills}: expected 0 or more, and above 0 only with drop_equal=True: problems are "
                "asked in place of the groups that are dropped"
            )

    @property
    def needs_reference(self) -> bool:
        """Whether the reference's log-probabilities enter the loss."""
        return self.kl_placement == "loss"

    @property
    def needs(self) -> str:
        """What the advantage needs besides rewards: "group", "critic", "greedy", "solver" or ""."""
        return ADVANTAGES[self.advantage].needs

    @property
    def unread(self) -> dict[str, str]:
        """Fields that this algorithm never reads -> what would have to be otherwise for it to read them."""
        taught, clips = self.needs == "solver", self.surrogate in ("clip", "sequence_clip")
        readers = {
            "a surrogate of clip or sequence_clip": (clips, "clip_low dual_clip"),
            "a surrogate other than likelihood": (self.surrogate != "likelihood", "clip_high"),
            "a kl_placement of loss or reward": (self.kl_placement != "none", "kl kl_coefficient"),
            "an advantage with a critic (whitened_gae)": (self.needs == "critic", "lam value_clip"),
            "an advantage over time (whitened_returns, greedy_baseline, whitened_gae)": (
                ADVANTAGES[self.advantage].over_time,
                "gamma",
            ),
            "samples that are judged": (not taught, "importance_cap drop_equal refills overlong_buffer"),
        }
        return {field: reader for reader, (read, fields) in readers.items() if not read for field in fields.split()}


def policy_loss(
    logp: Float[Array, "B T"],
    batch: Batch,
    spec: LossSpec,
    *,
    entropy: Float[Array, "B T"] | None = None,
    totals: Totals | None = None,
    kl_coefficient: Float[Array, ""] | float | None = None,
    row_blocks: int | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, "*blocks"]]]:
    """The loss of one (micro-)batch, and its measures, as shares of the whole optimizer step.

    `totals` are the denominators of the step this batch is a part of (None: the batch is the step). Losses,
    gradients and measures of all micro-batches then add up to those of the step, except names that end in
    `_max`: `combine_info` knows both. With `row_blocks` those come for each of so many equal blocks of rows,
    [row_blocks], else as one scalar. Means are over the loss tokens of the step. Log-probabilities in nats.
    """
    if spec.entropy_coefficient and entropy is None:
        raise ValueError(
            f"entropy_coefficient={spec.entropy_coefficient} needs the entropy of every token, got None; "
            "pass it (see `token_logp`, with entropy_gradient), or set entropy_coefficient=0"
        )
    mask = batch.loss_mask
    totals = totals_of(mask) if totals is None else totals
    kl_coefficient = spec.kl_coefficient if kl_coefficient is None else kl_coefficient
    logp = hide(logp, mask)
    old_logp = jax.lax.stop_gradient(logp) if batch.old_logp is None else hide(batch.old_logp, mask)
    advantages = hide(batch.advantages, mask)

    ratio, objective, clipped = SURROGATES[spec.surrogate](logp, old_logp, advantages, mask, spec)
    info = {}
    if spec.importance_cap is not None:
        weight = _sampler_weight(old_logp, batch)
        objective = objective * jnp.minimum(weight, spec.importance_cap)
        capped = (weight > spec.importance_cap).astype(jnp.float32)
        info["importance_capped_share"] = masked_sum(capped, mask) / totals.tokens
    policy = -reduce_tokens(objective, mask, totals, spec)
    loss = policy
    if spec.needs_reference or batch.ref_logp is not None:
        divergence = _divergence(logp, batch, spec)
        info["kl"] = masked_sum(divergence, mask) / totals.tokens
        if spec.needs_reference:
            loss = loss + kl_coefficient * reduce_tokens(divergence, mask, totals, spec)
    if entropy is not None:
        info["entropy"] = masked_sum(entropy, mask) / totals.tokens
        if spec.entropy_coefficient:
            loss = loss - spec.entropy_coefficient * reduce_tokens(hide(entropy, mask), mask, totals, spec)
    if batch.sample_logp is not None:
        gap = jnp.abs(old_logp - hide(batch.sample_logp, mask))  # without what earlier steps changed
        info |= {
            "logp_gap_mean": masked_sum(gap, mask) / totals.tokens,
            "logp_gap_max": masked_max(gap, mask, row_blocks),
        }
    info |= {
        "loss": loss,
        "policy_loss": policy,
        "ratio_mean": masked_sum(ratio, mask) / totals.tokens,
        "ratio_max": masked_max(ratio, mask, row_blocks),
        "clip_share": masked_sum(clipped.astype(jnp.float32), mask) / totals.tokens,
    }
    return loss, jax.lax.stop_gradient(info)


def _sampler_weight(old_logp, batch):
    """old / sample by token: what truncated importance sampling weighs with."""
    if batch.sample_logp is None:
        raise ValueError("importance_cap needs batch.sample_logp, got None; pass the sampler's log-probabilities")
    return jnp.exp(jax.lax.stop_gradient(old_logp) - hide(batch.sample_logp, batch.loss_mask))


def _divergence(logp, batch, spec):
    """The estimate of the KL to the reference by token."""
    if batch.ref_logp is None:
        raise ValueError(
            "kl_placement='loss' needs batch.ref_logp, got None; pass reference parameters or kl_placement='none'"
        )
    return kls.ESTIMATORS[spec.kl](logp, hide(batch.ref_logp, batch.loss_mask))


def combine_info(total: dict[str, Array], part: dict[str, Array]) -> dict[str, Array]:
    """Measures of two parts of one step as measures of both: `*_max` by maximum, all others by sum."""
    return {name: jnp.maximum(total[name], x) if name.endswith("_max") else total[name] + x for name, x in part.items()}


def reduce_tokens(
    values: Float[Array, "B T"], mask: Float[Array, "B T"], totals: Totals, spec: LossSpec
) -> Float[Array, ""]:
    """Sum of `values` with the weights of `spec.reduction`, as a share of the whole step."""
    if spec.reduction == "token_mean":
        return masked_sum(values, mask) / totals.tokens
    if spec.reduction == "sequence_mean":
        return jnp.sum(row_mean(values, mask)) / totals.rows
    length = spec.max_length if spec.reduction == "fixed_length" else 1
    return masked_sum(values, mask) / (totals.rows * length)


def clip(logp, old_logp, advantages, mask, spec):
    """min(r A, clip(r, 1 - low, 1 + high) A), r = policy / old by token.

    Source: PPO, arXiv 1707.06347, equation 7; with two bounds DAPO, arXiv 2503.14476, equation 10.
    """
    ratio = jnp.exp(jnp.clip(logp - old_logp, -20.0, 20.0))
    return ratio, *_clipped(ratio, advantages, spec)


def sequence_clip(logp, old_logp, advantages, mask, spec):
    """The same with r the geometric mean of the ratios of a row (GSPO, arXiv 2507.18071, eq. 5 to 7).

    Every token of the row carries the row's ratio, and its gradient through its own log-probability
    (GSPO-token, eq. 13 and 14): with one advantage a row, value and gradient are those of the sequence form.
    """
    row = jnp.sum(hide(logp - old_logp, mask), axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1.0)
    stopped = jax.lax.stop_gradient
    ratio = jnp.exp(jnp.clip(stopped(row)[:, None] + logp - stopped(logp), -20.0, 20.0))
    return ratio, *_clipped(ratio, advantages, spec)


def clipped_weight(logp, old_logp, advantages, mask, spec):
    """stop_gradient(min(r, 1 + high)) A log p: clipped tokens keep a gradient.

    Source: CISPO, arXiv 2506.13585, equations 4 and 5.
    """
    ratio = jax.lax.stop_gradient(jnp.exp(jnp.clip(logp - old_logp, -20.0, 20.0)))
    ceiling = 1.0 + spec.clip_high
    return ratio, jnp.minimum(ratio, ceiling) * advantages * logp, ratio > ceiling


def likelihood(logp, old_logp, advantages, mask, spec):
    """A log p (REINFORCE, Williams 1992); with A = 1 everywhere the cross entropy of supervised training."""
    ratio = jax.lax.stop_gradient(jnp.exp(jnp.clip(logp - old_logp, -20.0, 20.0)))
    return ratio, advantages * logp, jnp.zeros_like(ratio, bool)


def _clipped(ratio, advantages, spec):
    bounded = jnp.clip(ratio, 1.0 - spec.clip_low, 1.0 + spec.clip_high) * advantages
    free = ratio * advantages
    objective, clipped = jnp.minimum(free, bounded), bounded < free
    if spec.dual_clip is not None:
        floor = spec.dual_clip * advantages
        deeper = (advantages < 0) & (objective < floor)
        objective, clipped = jnp.where(deeper, floor, objective), clipped | deeper
    return objective, clipped


def _expect(field, value, allowed):
    if value not in allowed:
        raise ValueError(f"{field}: expected one of {', '.join(allowed)}, got {value!r}")


SURROGATES: dict[str, Callable] = {
    "clip": clip,
    "sequence_clip": sequence_clip,
    "clipped_weight": clipped_weight,
    "likelihood": likelihood,
}
"""name -> function(logp, old_logp, advantages, mask, spec) -> (ratio, objective, clipped), each [B, T]."""

SUPERVISED = LossSpec(advantage="taught", surrogate="likelihood", kl_placement="none")
"""Cross entropy over the loss tokens of the step: every advantage is 1."""

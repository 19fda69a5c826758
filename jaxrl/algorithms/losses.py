"""Policy losses: a surrogate per token, reduced with one denominator for the whole optimizer step."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrl.algorithms import kl as kls
from jaxrl.algorithms.advantages import ADVANTAGES, Needs
from jaxrl.algorithms.batch import Batch, Totals, totals_of
from jaxrl.algorithms.masked import hide, masked_max, masked_sum, row_mean

REDUCTIONS = ("token_mean", "sequence_mean", "sequence_sum", "fixed_length")
PLACEMENTS = ("none", "loss", "reward")


@dataclasses.dataclass(frozen=True)
class LossSpec:
    """An algorithm as data: advantage x surrogate x reduction x KL.

    advantage: a name in `advantages.ADVANTAGES`.
    surrogate: a name in `SURROGATES`.
    reduction: "token_mean" (sum over tokens / tokens of the step), "sequence_mean" (mean over the tokens of a row,
      then over the rows of the step), "sequence_sum" (sum over tokens / rows of the step), or "fixed_length"
      ("sequence_sum" / `max_length`, Dr.GRPO).
    clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high]; CISPO uses the upper bound only.
    dual_clip: upper bound of the loss of tokens with a negative advantage, as a multiple of -A. Above 1, usually 3;
      None: off.
    kl, kl_placement: estimator "k1", "k2" or "k3", and where it enters: "none", "loss" or "reward".
    kl_coefficient: a default; an update may pass a traced value instead.
    entropy_coefficient: of an entropy bonus, whose gradient costs memory bandwidth over the vocabulary; 0: off.
    importance_cap: truncated importance sampling with weight min(old / sample, cap); None: off.
    max_length: maximum number of new tokens, for "fixed_length".
    gamma, lam: discount factor, and lambda of `advantages.gae`.
    value_clip: the critic's values are clipped to old values +- value_clip; None: off.
    drop_equal: leave groups whose samples all have the same reward out of the update.
    refills: how many times per step, at most, further problems replace dropped groups (DAPO's dynamic sampling).
    overlong_buffer: share of the limit of new tokens over which the length penalty grows to 1, see
      `advantages.overlong_penalty`; 0: off.
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
                "set it to the maximum number of new tokens"
            )
        for field in ("gamma", "lam", "overlong_buffer"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"{field}: expected 0 to 1, got {getattr(self, field)}")
        for field, least in (("dual_clip", 1), ("importance_cap", 0), ("value_clip", 0)):
            if getattr(self, field) is not None and not getattr(self, field) > least:
                raise ValueError(f"{field}: expected above {least}, or None to turn it off, got {getattr(self, field)}")
        # Otherwise tokens of one sign of the advantage would lose their gradient, or part of it at 0, at ratio 1.
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
                f"refills={self.refills}: expected 0 or more, and above 0 only with drop_equal=True, because refills "
                "replace dropped groups"
            )

    @property
    def needs_reference(self) -> bool:
        """Whether the loss reads the log-probabilities of the reference."""
        return self.kl_placement == "loss"

    @property
    def needs(self) -> Needs:
        """What the advantage needs besides rewards."""
        return ADVANTAGES[self.advantage].needs

    @property
    def unused_fields(self) -> dict[str, str]:
        """The fields that this algorithm ignores, each with a description of the algorithms that use it."""
        clips = self.surrogate in ("clip", "sequence_clip")
        readers = {
            "a surrogate of clip or sequence_clip": (clips, "clip_low dual_clip"),
            "a surrogate other than likelihood": (self.surrogate != "likelihood", "clip_high"),
            "a kl_placement of loss or reward": (self.kl_placement != "none", "kl kl_coefficient"),
            "an advantage with a critic (whitened_gae)": (self.needs is Needs.CRITIC, "lam value_clip"),
            "an advantage over time (whitened_returns, greedy_baseline, whitened_gae)": (
                ADVANTAGES[self.advantage].over_time,
                "gamma",
            ),
            "scored samples": (
                self.needs is not Needs.SOLVER,
                "importance_cap drop_equal refills overlong_buffer",
            ),
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
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of one (micro-)batch and its metrics, as shares of the whole optimizer step.

    logp: log-probabilities of `batch.tokens` in nats. entropy: of the distribution of each token, for the bonus and
    the metric. totals: denominators of the step that this batch is a part of (None: the batch is the step).
    kl_coefficient: replaces that of `spec`, and may be traced. Means are over the loss tokens of the step. Losses,
    gradients and metrics of all micro-batches add up to those of the step, except `*_max`, see `combine_info`.
    Raises ValueError if `spec` needs an array that is missing: entropy, batch.ref_logp or batch.sample_logp.
    """
    if spec.entropy_coefficient and entropy is None:
        raise ValueError(
            f"entropy_coefficient={spec.entropy_coefficient} needs the entropy of every token, got None; "
            "pass it (`token_logp` with entropy_gradient), or set entropy_coefficient=0"
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
        gap = jnp.abs(old_logp - hide(batch.sample_logp, mask))  # old_logp is of the weights that sampled
        info |= {"logp_gap_mean": masked_sum(gap, mask) / totals.tokens, "logp_gap_max": masked_max(gap, mask)}
    info |= {
        "loss": loss,
        "policy_loss": policy,
        "ratio_mean": masked_sum(ratio, mask) / totals.tokens,
        "ratio_max": masked_max(ratio, mask),
        "clip_share": masked_sum(clipped.astype(jnp.float32), mask) / totals.tokens,
    }
    return loss, jax.lax.stop_gradient(info)


def _sampler_weight(old_logp, batch):
    """old / sample per token, the weight of truncated importance sampling."""
    if batch.sample_logp is None:
        raise ValueError("importance_cap needs batch.sample_logp, got None; pass the sampler's log-probabilities")
    return jnp.exp(jax.lax.stop_gradient(old_logp) - hide(batch.sample_logp, batch.loss_mask))


def _divergence(logp, batch, spec):
    """The estimate of the KL to the reference per token."""
    if batch.ref_logp is None:
        raise ValueError(
            "kl_placement='loss' needs batch.ref_logp, got None; pass reference parameters or kl_placement='none'"
        )
    return kls.ESTIMATORS[spec.kl](logp, hide(batch.ref_logp, batch.loss_mask))


def combine_info(total: dict[str, Array], part: dict[str, Array]) -> dict[str, Array]:
    """Metrics of two parts of a step combined: maximum of `*_max`, sum of all others."""
    return {name: jnp.maximum(total[name], x) if name.endswith("_max") else total[name] + x for name, x in part.items()}


def reduce_tokens(
    values: Float[Array, "B T"], mask: Float[Array, "B T"], totals: Totals, spec: LossSpec
) -> Float[Array, ""]:
    """`values` reduced by `spec.reduction` (see `LossSpec`), as a share of the whole step."""
    if spec.reduction == "token_mean":
        return masked_sum(values, mask) / totals.tokens
    if spec.reduction == "sequence_mean":
        return jnp.sum(row_mean(values, mask)) / totals.rows
    length = spec.max_length if spec.reduction == "fixed_length" else 1
    return masked_sum(values, mask) / (totals.rows * length)


def clip(logp, old_logp, advantages, mask, spec):
    """min(r A, clip(r, 1 - low, 1 + high) A), r = policy / old per token.

    Source: PPO, arXiv 1707.06347, equation 7; with two bounds DAPO, arXiv 2503.14476, equation 10.
    """
    ratio = jnp.exp(jnp.clip(logp - old_logp, -20.0, 20.0))
    return ratio, *_clipped(ratio, advantages, spec)


def sequence_clip(logp, old_logp, advantages, mask, spec):
    """`clip` with r the geometric mean of the ratios of a row (GSPO, arXiv 2507.18071, equations 5 to 7).

    Every token has the ratio of its row, with a gradient through the token's own log-probability (GSPO-token,
    equations 13 and 14). With one advantage per row, value and gradient equal those of the sequence form.
    """
    row = jnp.sum(hide(logp - old_logp, mask), axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1.0)
    stopped = jax.lax.stop_gradient
    ratio = jnp.exp(jnp.clip(stopped(row)[:, None] + logp - stopped(logp), -20.0, 20.0))
    return ratio, *_clipped(ratio, advantages, spec)


def clipped_weight(logp, old_logp, advantages, mask, spec):
    """stop_gradient(min(r, 1 + high)) A log p. Clipped tokens keep a gradient.

    Source: CISPO, arXiv 2506.13585, equations 4 and 5.
    """
    ratio = jax.lax.stop_gradient(jnp.exp(jnp.clip(logp - old_logp, -20.0, 20.0)))
    limit = 1.0 + spec.clip_high
    return ratio, jnp.minimum(ratio, limit) * advantages * logp, ratio > limit


def likelihood(logp, old_logp, advantages, mask, spec):
    """A log p (REINFORCE, Williams 1992). With A = 1 everywhere, the cross-entropy of supervised training."""
    ratio = jax.lax.stop_gradient(jnp.exp(jnp.clip(logp - old_logp, -20.0, 20.0)))
    return ratio, advantages * logp, jnp.zeros_like(ratio, bool)


def _clipped(ratio, advantages, spec):
    """The clipped objective of each token, and whether clipping changed it. Both [B, T]."""
    unclipped = ratio * advantages
    bounded = jnp.clip(ratio, 1.0 - spec.clip_low, 1.0 + spec.clip_high) * advantages
    objective, clipped = jnp.minimum(unclipped, bounded), bounded < unclipped
    if spec.dual_clip is not None:
        lowest = spec.dual_clip * advantages
        below = (advantages < 0) & (objective < lowest)
        objective, clipped = jnp.where(below, lowest, objective), clipped | below
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

SUPERVISED = LossSpec(advantage="supervised", surrogate="likelihood", kl_placement="none")
"""Cross-entropy over the loss tokens of the step: every advantage is 1."""

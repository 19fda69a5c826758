"""Pure functions on arrays: advantages, losses, KL estimators, log-probabilities, schedules, recipes.

spec = recipe("grpo", clip_high=0.28)
advantages = compute_advantages(spec.advantage, rewards, loss_mask)
loss, info = policy_loss(logp, Batch(tokens, lengths, loss_mask, advantages, old_logp, ref_logp), spec)
"""

from jaxrl.algorithms.advantages import (
    ADVANTAGES,
    Needs,
    compute_advantages,
    gae,
    group_center,
    group_zscore,
    leave_one_out,
    overlong_penalty,
    returns_to_go,
    value_targets,
    whiten_tokens,
    zero_variance,
)
from jaxrl.algorithms.batch import Batch, Totals, totals_of
from jaxrl.algorithms.critic_loss import explained_variance, value_loss
from jaxrl.algorithms.kl import k1, k2, k3
from jaxrl.algorithms.logp import token_logp
from jaxrl.algorithms.losses import SUPERVISED, LossSpec, combine_info, policy_loss
from jaxrl.algorithms.recipes import RECIPES, recipe
from jaxrl.algorithms.schedules import ScheduleSpec, make_schedule

__all__ = [
    "ADVANTAGES",
    "RECIPES",
    "SUPERVISED",
    "Batch",
    "LossSpec",
    "Needs",
    "ScheduleSpec",
    "Totals",
    "combine_info",
    "compute_advantages",
    "explained_variance",
    "gae",
    "group_center",
    "group_zscore",
    "k1",
    "k2",
    "k3",
    "leave_one_out",
    "make_schedule",
    "overlong_penalty",
    "policy_loss",
    "recipe",
    "returns_to_go",
    "token_logp",
    "totals_of",
    "value_loss",
    "value_targets",
    "whiten_tokens",
    "zero_variance",
]

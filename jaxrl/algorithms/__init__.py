"""Pure functions on arrays: advantages, losses, divergences, log-probabilities, schedules, recipes."""

from jaxrl.algorithms.advantages import compute_advantages
from jaxrl.algorithms.batch import Batch, Totals, totals_of
from jaxrl.algorithms.critic_loss import explained_variance, value_loss
from jaxrl.algorithms.logp import token_logp
from jaxrl.algorithms.losses import SUPERVISED, LossSpec, combine_info, policy_loss
from jaxrl.algorithms.recipes import RECIPES, recipe
from jaxrl.algorithms.schedules import ScheduleSpec, make_schedule

__all__ = [
    "RECIPES",
    "SUPERVISED",
    "Batch",
    "LossSpec",
    "ScheduleSpec",
    "Totals",
    "combine_info",
    "compute_advantages",
    "explained_variance",
    "make_schedule",
    "policy_loss",
    "recipe",
    "token_logp",
    "totals_of",
    "value_loss",
]

"""Published algorithms as rows of one table. Comments give the source and the differences from it."""

import dataclasses

from jaxrl.algorithms.losses import SUPERVISED, LossSpec

RECIPES: dict[str, LossSpec] = {
    # arXiv 2402.03300, with the token mean that Logic-RL uses (the paper: "sequence_mean").
    "grpo": LossSpec(),
    # arXiv 2503.20783: no division by the group's std or by the row's length. Training sets max_length to its
    # max_new_tokens.
    "dr_grpo": LossSpec(advantage="group_center", reduction="fixed_length", kl_placement="none", max_length=2048),
    # arXiv 2503.14476: clip-higher, token mean over the step, no KL, dynamic sampling, soft penalty over the last
    # fifth of the limit. The number of refills is bounded (the paper samples until the step is full).
    "dapo": LossSpec(clip_high=0.28, kl_placement="none", drop_equal=True, refills=3, overlong_buffer=0.2),
    # arXiv 2507.18071: ratio and clipping per sequence.
    "gspo": LossSpec(
        surrogate="sequence_clip",
        reduction="sequence_mean",
        clip_low=3e-4,
        clip_high=4e-4,
        kl_placement="none",
    ),
    # arXiv 2506.13585: the importance weight is clipped, so no token loses its gradient. Upper bound 1 + clip_high.
    "cispo": LossSpec(surrogate="clipped_weight", clip_high=4.0, kl_placement="none"),
    # arXiv 2501.03262: k1 in the reward, returns to go, whitened over the whole batch.
    "reinforce_pp": LossSpec(advantage="whitened_returns", kl="k1", kl_placement="reward", kl_coefficient=0.01),
    # arXiv 2501.03262, section 3.2: group mean as baseline, whitened over the batch, KL in the loss.
    "reinforce_pp_baseline": LossSpec(advantage="whitened_center", kl="k2", kl_coefficient=0.001),
    # arXiv 2402.14740: REINFORCE on whole sequences, leave-one-out baseline, KL in the reward.
    "rloo": LossSpec(
        advantage="leave_one_out",
        surrogate="likelihood",
        reduction="sequence_sum",
        kl="k1",
        kl_placement="reward",
        kl_coefficient=0.05,
    ),
    # arXiv 2310.10505: REINFORCE on whole sequences, the greedy completion's reward as baseline, KL in the reward
    # (with the coefficient of "rloo").
    "remax": LossSpec(
        advantage="greedy_baseline",
        surrogate="likelihood",
        reduction="sequence_sum",
        kl="k1",
        kl_placement="reward",
        kl_coefficient=0.05,
    ),
    # arXiv 1707.06347 and 2203.02155: critic, GAE whitened over the batch, k1 in the reward. gamma = lam = 1 and value
    # clipping as is common for language models with a reward at the end.
    "ppo": LossSpec(advantage="whitened_gae", kl="k1", kl_placement="reward", value_clip=0.5),
}


SUPERVISED_RECIPES: dict[str, LossSpec] = {"sft": SUPERVISED}
"""Algorithms that learn from demonstrations instead of scored samples."""


def recipe(name: str, **changes) -> LossSpec:
    """The row `name` of RECIPES or SUPERVISED_RECIPES with some fields changed.

    Raises ValueError for an unknown name or field.
    """
    rows = RECIPES | SUPERVISED_RECIPES
    if name not in rows:
        raise ValueError(f"algorithm: expected one of {', '.join(rows)}, got {name!r}")
    fields = [field.name for field in dataclasses.fields(LossSpec)]
    unknown = sorted(set(changes) - set(fields))
    if unknown:
        raise ValueError(f"algorithm fields: expected some of {', '.join(fields)}, got {', '.join(unknown)}")
    return dataclasses.replace(rows[name], **changes)

"""One training step: collect a rollout, then learn from it.

    prompts (P) -> sampler -> Rollout (P, G) -> verdicts -> rewards (P, G) -> advantages -> Batch (B, T)
    update(state, batch) -> (state, info)

`docs/tour.md` follows one step through types and files.
"""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.algorithms.batch import Batch
from jaxrl.algorithms.kl import ESTIMATORS
from jaxrl.learning.state import TrainState
from jaxrl.learning.update import Scalars
from jaxrl.training.batch_rows import add_advantages, make_batch
from jaxrl.training.components import Components
from jaxrl.training.problem_pools import ProblemSet
from jaxrl.training.progress import StepPlan
from jaxrl.training.responses import ResponseSource
from jaxrl.training.rollout import Rollout, collect_rollout, groups_to_learn_from, select_groups
from jaxrl.training.run_spec import AlgorithmSpec

Timed = Callable[[str], AbstractContextManager]
"""`with timed(phase): ...` measures a phase; see `jaxrl.training.timing.PhaseTimer`."""


class Collected(NamedTuple):
    """A rollout and the batch to learn from.

    groups: indices of the rollout's groups that are in the batch; empty if dynamic sampling dropped all of them.
    refills: how often dynamic sampling completed further problems.
    """

    rollout: Rollout
    groups: np.ndarray
    batch: Batch
    refills: int


@dataclasses.dataclass(frozen=True)
class Step:
    """The two halves of a training step. `collect` changes nothing; `learn` returns a new state."""

    algorithm: AlgorithmSpec
    components: Components
    problem_set: ProblemSet
    responses: ResponseSource

    def collect(self, state: TrainState, reference: Any, plan: StepPlan, timed: Timed) -> Collected:
        """Sample and score the rollout of a step and make its batch.

        reference: parameters of a fixed reference policy, or None. Raises FloatingPointError if logits are not finite.
        """
        loss, limit = self.algorithm.loss, plan.stage.max_new_tokens
        complete = partial(self.responses.complete, state, plan)
        rollout, refills = collect_rollout(complete, self.problem_set, plan, loss, timed)
        groups = groups_to_learn_from(rollout.rewards, loss, plan.stage.prompts)
        kept = select_groups(rollout, groups)
        batch = make_batch(kept, self.components.longest)
        if len(groups):
            with timed("reference"):
                batch = self._add_values(batch, state)
                batch = self._add_reference_logprobs(batch, state, reference, plan)
                batch, kl_penalty = self._kl_penalty(batch, state, plan)
                batch = add_advantages(batch, kept, loss, limit, kl_penalty)
        if not self.responses.sampled:
            batch = batch._replace(sample_logp=None)
        return Collected(rollout, groups, batch, refills)

    def learn(self, state: TrainState, batch: Batch, plan: StepPlan) -> tuple[TrainState, dict[str, Any]]:
        """All optimizer steps of the batch, then the update of a moving reference. `state` is donated.

        Returns the new state, and the info of `Update` on the host.
        """
        scalars = Scalars(
            learning_rate=plan.learning_rate,
            temperature=plan.temperature,
            kl_coefficient=plan.stage.kl_coefficient,
            critic_learning_rate=self.algorithm.critic_learning_rate * plan.learning_rate_scale,
        )
        state, info = self.components.update(state, batch, scalars)
        return self.components.update_reference(state, plan.step), jax.device_get(info)

    def _add_values(self, batch: Batch, state: TrainState) -> Batch:
        """The critic's values before the update, if the algorithm has a critic."""
        if not self.components.values:
            return batch
        values = self.components.values(state.critic.params, batch.tokens, batch.lengths)
        return batch._replace(values=values * batch.loss_mask)

    def _add_reference_logprobs(self, batch: Batch, state: TrainState, reference: Any, plan: StepPlan) -> Batch:
        """Log-probabilities of the fixed or moving reference policy, if the algorithm has one."""
        if self.components.has_moving_reference:
            reference = state.reference_params
        if reference is None:
            return batch
        return batch._replace(ref_logp=self._logp(reference, batch, plan))

    def _kl_penalty(self, batch: Batch, state: TrainState, plan: StepPlan) -> tuple[Batch, np.ndarray | None]:
        """The batch, and the KL penalty [B, T] that `add_advantages` subtracts from the reward; None without one.

        With several optimizer steps per rollout the batch also gets `old_logp`, which is computed here anyway.
        """
        loss = self.algorithm.loss
        if batch.ref_logp is None or loss.kl_placement != "reward":
            return batch, None
        logp = self._logp(state.model_params, batch, plan)
        divergence = ESTIMATORS[loss.kl](jnp.asarray(logp), jnp.asarray(batch.ref_logp))
        if self.algorithm.optimizer_steps > 1:
            batch = batch._replace(old_logp=logp)
        return batch, plan.stage.kl_coefficient * np.asarray(divergence) * batch.loss_mask

    def _logp(self, params: Any, batch: Batch, plan: StepPlan) -> np.ndarray:
        """Log-probability [B, T] of every sampled token by the learner's model with `params`, 0 elsewhere."""
        return self.components.logp(params, batch.tokens, batch.lengths, plan.temperature) * batch.loss_mask

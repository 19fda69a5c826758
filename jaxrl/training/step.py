"""The two halves of a step: drawing a rollout, which changes nothing, and learning from it."""

import resource
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.algorithms.batch import Batch
from jaxrl.algorithms.kl import ESTIMATORS
from jaxrl.learning.state import TrainState
from jaxrl.learning.update import Scalars
from jaxrl.reporting.rollouts import GroupRecord
from jaxrl.reporting.terminal import Terminal
from jaxrl.runtime.hardware import peak_flops
from jaxrl.sampling import Completions, Coordinates
from jaxrl.tasks.problem import Problem
from jaxrl.tasks.prompting import PromptFormat
from jaxrl.tasks.task import choose
from jaxrl.training.components import Components
from jaxrl.training.progress import StepPlan, draw_seed
from jaxrl.training.rollout import (
    Rollout,
    join,
    make_batch,
    score_completions,
    select,
    shaped_rewards,
    to_records,
    with_advantages,
    with_variance,
)
from jaxrl.training.run_spec import RunSpec
from jaxrl.training.step_metrics import rollout_metrics, update_metrics, warnings

_SPARE = 0x5BA2E  # what tells the order of spare problems from that of an epoch


class Collected(NamedTuple):
    """What a step draws and learns from; when it began and how long all took."""

    began: float
    times: dict[str, float]  # by metric
    indices: np.ndarray  # of its problems
    rollout: Rollout  # all that was drawn
    groups: np.ndarray  # those of the rollout that it learns from; none where all are dropped
    batch: Batch  # their rows
    refills: int = 0  # how often other problems were asked


class Steps:
    """Takes the steps that plans describe; `pools` are the problems of each stage, by its name."""

    def __init__(
        self,
        spec: RunSpec,
        components: Components,
        prompt_format: PromptFormat,
        pools: Mapping[str, Sequence[Problem]],
        terminal: Terminal,
    ):
        self.spec, self.components, self.prompt_format, self.pools, self.terminal = (
            spec,
            components,
            prompt_format,
            pools,
            terminal,
        )

    def draw(self, state: TrainState, reference: Any, plan: StepPlan) -> Collected:
        """The step's rollout and its batch; nothing is changed yet. FloatingPointError where logits are not finite."""
        began, times, loss = time.perf_counter(), {}, self.spec.algorithm.loss
        rollout, indices, refills = self._roll(state, plan, times)
        groups = np.arange(plan.stage.prompts)
        if loss.drop_equal:
            groups = with_variance(rollout.rewards)[: plan.stage.prompts]
        learned = select(rollout, groups)
        batch = make_batch(learned, self.components.longest)
        if len(groups):
            with self._phase("reference", times):
                batch, penalty = self._refer(batch, state, reference, plan)
                rewards, greedy = shaped_rewards(learned, loss, plan.stage.max_new_tokens)
                batch = with_advantages(batch, rewards, greedy, loss, penalty)
        return Collected(began, times, indices, rollout, groups, batch, refills)

    def _roll(self, state: TrainState, plan: StepPlan, times: dict[str, float]) -> tuple[Rollout, np.ndarray, int]:
        """All completions of a step, the indices of its problems, and how often others were asked (dynamic sampling).

        Each refill asks as many other problems as groups are missing, so what is drawn depends on nothing but the
        arguments (law 1), and a step that is taken again draws the same.
        """
        stage, loss = plan.stage, self.spec.algorithm.loss
        queue = np.concatenate([self.indices(plan), self.spare(plan)]) if loss.refills else self.indices(plan)
        samples = np.arange(stage.samples + (loss.needs == "greedy"))
        parts, asked, missing = [], 0, stage.prompts
        while missing and len(parts) <= loss.refills and asked < len(queue):
            indices = queue[asked : asked + missing]
            asked += len(indices)
            with self._phase("rollout", times):
                prompts, completions = self.complete(state, plan, indices, samples)
            with self._phase("reward", times):
                problems = [self.pools[stage.name][index] for index in indices]
                parts.append(score_completions(self.prompt_format, problems, prompts, completions, stage.samples))
            missing -= len(with_variance(parts[-1].rewards)) if loss.refills else missing
        return join(parts), queue[:asked], len(parts) - 1

    def learn(self, state: TrainState, plan: StepPlan, drawn: Collected) -> tuple[TrainState, dict[str, Any]]:
        """The update of a step, and the numbers of the whole of it."""
        stage, times = plan.stage, dict(drawn.times)
        scalars = Scalars(
            plan.learning_rate,
            plan.temperature,
            stage.kl_coefficient,
            self.spec.algorithm.critic_learning_rate * plan.rate,
        )
        with self._phase("update", times):
            state, info = self.components.update(state, drawn.batch, scalars)
            state = self.components.follow(state, plan.step)
            info = jax.device_get(info)
        record = {
            "step": plan.step,
            "stage": stage.name,
            "stage_step": plan.place + 1,
            "guard/reseeds": plan.draw,
            "guard/learning_rate_scale": plan.rate,
            "learning_rate": plan.learning_rate,
            "temperature": plan.temperature,
            "kl_coefficient": stage.kl_coefficient,
        }
        record |= rollout_metrics(drawn.rollout) | update_metrics(info)
        if self.spec.algorithm.loss.drop_equal:
            dropped = len(drawn.rollout.problems) - len(drawn.groups)
            record |= {
                "groups/collected": len(drawn.rollout.problems),
                "groups/dropped": dropped,
                "groups/refills": drawn.refills,
            }
        found = warnings(record)
        record |= {"warnings": found} if found else {}
        times["time/step"] = time.perf_counter() - drawn.began
        speeds = {
            "speed/rollout_tokens_per_second": record["tokens/rollout"] / times["time/rollout"],
            "speed/update_tokens_per_second": record["tokens/update"] / times["time/update"],
            "speed/update_flops": record["flops/update"] / times["time/update"],
            "memory/peak_bytes": _peak_bytes(),
            "compiled/sampler": sum(self.components.sampler.traces.values()),
            "compiled/update": sum(self.components.update.traces.values()),
        }
        devices = self.components.mesh.devices
        if peak := peak_flops(devices.flat[0].device_kind, self.spec.model.dtype):
            speeds["speed/update_mfu"] = speeds["speed/update_flops"] / (devices.size * peak)
        return state, record | times | speeds

    def records(self, plan: StepPlan, drawn: Collected) -> list[GroupRecord]:
        """The step's responses as they are stored."""
        return to_records(
            drawn.rollout, drawn.batch, drawn.groups, self.prompt_format, plan.step, plan.stage.name, drawn.indices
        )

    def indices(self, plan: StepPlan) -> np.ndarray:
        """Which problems of its stage's pool a step asks."""
        return choose(len(self.pools[plan.stage.name]), plan.stage.prompts, self._problem_seed(plan), plan.place)

    def spare(self, plan: StepPlan) -> np.ndarray:
        """All others of the pool, in the order in which a step asks them in place of problems that teach nothing."""
        seed = np.random.SeedSequence([*self._problem_seed(plan), plan.place, _SPARE])
        order = np.random.default_rng(seed).permutation(len(self.pools[plan.stage.name]))
        return order[~np.isin(order, self.indices(plan))]

    def _problem_seed(self, plan: StepPlan) -> tuple[int, int]:
        return draw_seed(self.spec.seed, plan.draw), self.spec.stages.index(plan.stage)

    def complete(
        self, state: TrainState, plan: StepPlan, indices: np.ndarray, samples: np.ndarray
    ) -> tuple[list[list[int]], Completions]:
        """Prompts of these problems, and completions with these sample numbers, as the step draws them.

        A sample number behind those of the stage is drawn greedily.
        They are functions of the arguments alone (law 1), so a few of a step's completions are those of the whole step.
        """
        stage = plan.stage
        prompts = [self.prompt_format.encode(self.pools[stage.name][index]) for index in indices]
        weights = self.components.decode_weights(state)
        coordinates = Coordinates(
            draw_seed(self.spec.seed, plan.draw), plan.step, indices.astype(np.int32), samples.astype(np.int32)
        )
        heat = np.tile(np.where(samples < stage.samples, plan.temperature, 0.0), len(indices))
        drawing = self.prompt_format.sampling_spec(
            stage.max_new_tokens, heat, top_k=plan.top_k, top_p=plan.top_p, min_p=plan.min_p
        )
        return prompts, self.components.sampler.sample(
            weights, prompts, len(samples), coordinates, drawing, partial(self.terminal.phase, "rollout")
        )

    def _refer(
        self, batch: Batch, state: TrainState, reference: Any, plan: StepPlan
    ) -> tuple[Batch, np.ndarray | None]:
        """The batch with reference log-probabilities, and the penalty [B, T] where the KL stands in the reward."""
        loss = self.spec.algorithm.loss
        if self.components.values:
            values = self.components.values(state.critic.params, batch.tokens, batch.lengths)
            batch = batch._replace(values=values * batch.loss_mask)
        reference = state.weights(state.reference) if self.components.follows else reference
        if reference is None:
            return batch, None
        referred = self.components.logp(reference, batch.tokens, batch.lengths, plan.temperature)
        batch = batch._replace(ref_logp=referred * batch.loss_mask)
        if loss.kl_placement != "reward":
            return batch, None
        weights = state.weights(state.params)
        own = self.components.logp(weights, batch.tokens, batch.lengths, plan.temperature) * batch.loss_mask
        divergence = ESTIMATORS[loss.kl](jnp.asarray(own), jnp.asarray(batch.ref_logp))
        if (
            self.components.update.spec.steps > 1
        ):  # else the update's own are the old ones: another program's differ a bit
            batch = batch._replace(old_logp=own)
        return batch, plan.stage.kl_coefficient * np.asarray(divergence) * batch.loss_mask

    @contextmanager
    def _phase(self, name: str, times: dict[str, float]):
        self.terminal.phase(name)
        began = time.perf_counter()
        yield
        times[f"time/{name}"] = times.get(f"time/{name}", 0.0) + time.perf_counter() - began


def _peak_bytes() -> int:
    """The most memory in use so far: on the fullest device, or of this process where devices do not tell."""
    peaks = [stats["peak_bytes_in_use"] for device in jax.local_devices() if (stats := device.memory_stats())]
    return max(peaks) if peaks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

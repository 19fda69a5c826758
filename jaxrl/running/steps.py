"""The two halves of a step: drawing a rollout, which changes nothing, and learning from it."""

import resource
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrl.algorithms.batch import Batch
from jaxrl.algorithms.kl import ESTIMATORS
from jaxrl.evaluation.problems import Problem
from jaxrl.learning.state import TrainState
from jaxrl.learning.update import Scalars
from jaxrl.reporting.rollouts import GroupRecord
from jaxrl.reporting.terminal import Terminal
from jaxrl.running.machine import Machine
from jaxrl.running.measures import rollout_metrics, update_metrics, warnings
from jaxrl.running.progress import StepPlan, draw_seed
from jaxrl.running.rollout import Rollout, make_batch, score_completions, to_records, with_advantages
from jaxrl.running.settings import RunSpec
from jaxrl.running.tasks import Dialogue, choose
from jaxrl.running.utilization import peak_flops, update_flops
from jaxrl.sampling import Completions, Coordinates


class Drawn(NamedTuple):
    """What a step learns from: the indices of its problems, rollout, batch; when it began and how long all took."""

    began: float
    times: dict[str, float]  # by metric
    indices: np.ndarray
    rollout: Rollout
    batch: Batch


class Steps:
    """Takes the steps that plans describe; `pools` are the problems of each stage, by its name."""

    def __init__(self, spec: RunSpec, machine: Machine, dialogue: Dialogue, pools: Mapping[str, Sequence[Problem]],
                 terminal: Terminal):
        self.spec, self.machine, self.dialogue, self.pools, self.terminal = spec, machine, dialogue, pools, terminal

    def draw(self, state: TrainState, reference: Any, plan: StepPlan) -> Drawn:
        """The step's rollout and its batch; nothing is changed yet. FloatingPointError where logits are not finite."""
        began, times = time.perf_counter(), {}
        indices = self.indices(plan)
        problems = [self.pools[plan.stage.name][index] for index in indices]
        with self._phase("rollout", times):
            prompts, completions = self.complete(state.params, plan, indices, np.arange(plan.stage.samples))
        with self._phase("reward", times):
            rollout = score_completions(self.dialogue, problems, prompts, completions)
            batch = make_batch(rollout, self.machine.longest)
        with self._phase("reference", times):
            batch, penalty = self._refer(batch, state, reference, plan)
            batch = with_advantages(batch, rollout, self.spec.loss.advantage, penalty)
        return Drawn(began, times, indices, rollout, batch)

    def learn(self, state: TrainState, plan: StepPlan, drawn: Drawn) -> tuple[TrainState, dict[str, Any]]:
        """The update of a step, and the numbers of the whole of it."""
        stage, times = plan.stage, dict(drawn.times)
        scalars = Scalars(plan.learning_rate, plan.temperature, stage.kl_coefficient)
        with self._phase("update", times):
            state, info = self.machine.update(state, None, drawn.batch, scalars)
            info = jax.device_get(info)
        record = {"step": plan.step, "stage": stage.name, "stage_step": plan.place + 1, "guard/draw": plan.draw,
                  "learning_rate": plan.learning_rate, "temperature": plan.temperature,
                  "kl_coefficient": stage.kl_coefficient}
        record |= rollout_metrics(drawn.rollout) | update_metrics(info)
        found = warnings(record)
        record |= {"warnings": found} if found else {}
        times["time/step"] = time.perf_counter() - drawn.began
        speeds = {
            "speed/rollout_tokens_per_second": record["tokens/rollout"] / times["time/rollout"],
            "speed/update_tokens_per_second": record["tokens/update"] / times["time/update"],
            "memory/peak_bytes": _peak_bytes(),
        }
        devices = self.machine.mesh.devices
        if peak := peak_flops(devices.flat[0].device_kind, self.spec.dtype):
            flops = self.spec.epochs * update_flops(self.machine.config, drawn.batch.lengths)
            speeds["speed/update_mfu"] = flops / (times["time/update"] * devices.size * peak)
        return state, record | times | speeds

    def records(self, plan: StepPlan, drawn: Drawn) -> list[GroupRecord]:
        """The step's responses as they are stored."""
        return to_records(drawn.rollout, drawn.batch, self.dialogue, plan.step, plan.stage.name, drawn.indices)

    def indices(self, plan: StepPlan) -> np.ndarray:
        """Which problems of its stage's pool a step asks."""
        stage = plan.stage
        seed = (draw_seed(self.spec.seed, plan.draw), self.spec.stages.index(stage))
        return choose(len(self.pools[stage.name]), stage.prompts, seed, plan.place)

    def complete(
        self, params: Any, plan: StepPlan, indices: np.ndarray, samples: np.ndarray
    ) -> tuple[list[list[int]], Completions]:
        """Prompts of these problems, and completions with these sample numbers, as the step draws them.

        They are functions of the arguments alone (law 1), so a few of a step's completions are those of the whole step.
        """
        stage = plan.stage
        prompts = [self.dialogue.encode(self.pools[stage.name][index]) for index in indices]
        weights = self.machine.sampler.decode_weights(params)
        coordinates = Coordinates(draw_seed(self.spec.seed, plan.draw), plan.step, indices.astype(np.int32),
                                  samples.astype(np.int32))
        drawing = self.dialogue.drawing(stage.max_new_tokens, plan.temperature,
                                        top_k=stage.top_k, top_p=stage.top_p, min_p=stage.min_p)
        return prompts, self.machine.sampler.sample(weights, prompts, len(samples), coordinates, drawing,
                                                    partial(self.terminal.phase, "rollout"))

    def _refer(
        self, batch: Batch, state: TrainState, reference: Any, plan: StepPlan
    ) -> tuple[Batch, np.ndarray | None]:
        """The batch with reference log-probabilities, and the penalty [B, T] where the KL stands in the reward."""
        loss = self.spec.loss
        if reference is None:
            return batch, None
        referred = self.machine.logp(reference, batch.tokens, batch.lengths, plan.temperature)
        batch = batch._replace(ref_logp=referred * batch.loss_mask)
        if loss.kl_placement != "reward":
            return batch, None
        own = self.machine.logp(state.params, batch.tokens, batch.lengths, plan.temperature) * batch.loss_mask
        penalty = plan.stage.kl_coefficient * np.asarray(ESTIMATORS[loss.kl](own, batch.ref_logp)) * batch.loss_mask
        return batch._replace(old_logp=own), penalty

    @contextmanager
    def _phase(self, name: str, times: dict[str, float]):
        self.terminal.phase(name)
        began = time.perf_counter()
        yield
        times[f"time/{name}"] = time.perf_counter() - began


def _peak_bytes() -> int:
    """The most memory in use so far: on the fullest device, or of this process where devices do not tell."""
    peaks = [stats["peak_bytes_in_use"] for device in jax.local_devices() if (stats := device.memory_stats())]
    return max(peaks) if peaks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024



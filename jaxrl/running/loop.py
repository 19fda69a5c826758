"""The training loop: rollout, reward, update, measures; checkpoints, evaluation and export around it."""

import dataclasses
import resource
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrl.algorithms.batch import Batch
from jaxrl.algorithms.kl import ESTIMATORS
from jaxrl.algorithms.schedules import make_schedule
from jaxrl.evaluation.evaluate import evaluate
from jaxrl.evaluation.overlap import refuse_overlap
from jaxrl.evaluation.table import EvaluationResult, to_metrics
from jaxrl.learning.checkpoint import Checkpoints
from jaxrl.learning.state import TrainState, abstract_state, init_state
from jaxrl.learning.update import Scalars
from jaxrl.reporting.rollouts import drop_rollouts_after, write_rollouts
from jaxrl.reporting.run_folder import read_evaluations, write_evaluation
from jaxrl.reporting.terminal import Terminal
from jaxrl.reporting.writers import JsonlWriter, WandbWriter
from jaxrl.running.machine import build_machine, first_state, load_weights
from jaxrl.running.measures import rollout_metrics, update_metrics, warnings
from jaxrl.running.rollout import make_batch, score_completions, to_records, with_advantages
from jaxrl.running.settings import RunSpec, StageSpec
from jaxrl.running.tasks import Dialogue, choose
from jaxrl.running.workdir import claim_workdir, make_manifest, write_manifest
from jaxrl.sampling import Completions, Coordinates
from models.convert import save_params
from models.folder import read_config
from models.tokenizer import check_vocabulary, eos_ids, load_tokenizer

BEFORE, AFTER = "before", "after"
# Evaluation draws from a seed of its own: its completions must not repeat those of any training step.
_EVALUATION_SEED = 0x5EED


class Run:
    """A training run over its folder. `train()` starts it, or goes on where it was killed."""

    def __init__(self, spec: RunSpec, model_folder: Path, terminal: Terminal, config: dict[str, Any]):
        self.spec, self.folder, self.terminal, self.config = spec, model_folder, terminal, config
        tokenizer = load_tokenizer(model_folder)
        ends = eos_ids(model_folder, tokenizer)
        model_config = read_config(model_folder)
        check_vocabulary(tokenizer, model_config.vocab_size, ends)
        self.dialogue = Dialogue(spec.task, spec.prompt, spec.rule, spec.values, tokenizer, ends, spec.stop)
        self.held_out = spec.task.draw("test", spec.evaluation.pool, spec.seed)
        known = {problem.form for problem in self.held_out}
        self.pools = {stage.name: spec.task.draw("train", stage.pool, spec.seed, known) for stage in spec.stages}
        refuse_overlap(self.held_out, [problem for pool in self.pools.values() for problem in pool])
        self.machine = build_machine(spec, model_config, self._longest())

    def train(self) -> dict[str, EvaluationResult]:
        """All steps that are still to be done; returns the evaluations before and after."""
        spec = self.spec
        claim_workdir(spec.workdir, self.config)
        with ExitStack() as stack:
            checkpoints = stack.enter_context(Checkpoints(spec.workdir / "checkpoints", spec.checkpoint))
            if checkpoints.steps():
                abstract = abstract_state(self.machine.model, self.machine.optimizer, self.machine.mesh)
                state, meta = checkpoints.restore(abstract)
                done = int(meta["step"])
                self.terminal.say(f"going on after step {done}")
            else:
                state, done = first_state(self.machine, spec, self.folder), 0
            drop_rollouts_after(spec.workdir / "rollouts", done)
            writer = JsonlWriter(spec.workdir / "metrics.jsonl", done if done else None)
            stack.callback(writer.close)
            wandb = WandbWriter(spec.wandb, spec.workdir, self.config, self.terminal.say)
            stack.callback(wandb.close)
            write_manifest(spec.workdir, self.manifest())
            reference = load_weights(self.machine, self.folder) if self._needs_reference else None
            found = {result.name: result for result in read_evaluations(spec.workdir)}
            if done == 0:
                found[BEFORE] = self._evaluate(state, BEFORE, 0)
                self._report({"step": 0} | _evaluation_metrics(found[BEFORE]), writer, wandb)
            state = self._steps(state, done, reference, checkpoints, found, writer, wandb)
        self._export(state)
        return found

    def manifest(self) -> dict[str, Any]:
        """What this run's numbers rest on besides its config; see `make_manifest`."""
        problems = {name: [problem.id for problem in pool] for name, pool in self.pools.items()}
        problems["held_out"] = [problem.id for problem in self.held_out]
        return make_manifest(self.spec.rule, problems)

    def _steps(self, state, done, reference, checkpoints, found, writer, wandb) -> TrainState:
        spec, shown = self.spec, None
        for step in range(done + 1, spec.total_steps + 1):
            stage, place = spec.stage_of(step)
            if stage is not shown:
                self.terminal.stage(stage.name, step - place, step - place + stage.steps - 1)
                if stage.fresh_optimizer and place == 0:
                    state = init_state(self.machine.model, self.machine.optimizer, self.machine.mesh, state.params)
                shown = stage
            state, record = self._step(state, reference, stage, place, step)
            last, every = step == spec.total_steps, spec.evaluation.every
            if last or (every and step % every == 0):
                name = AFTER if last else f"step_{step:06d}"
                found[name] = self._evaluate(state, name, step)
                record |= _evaluation_metrics(found[name])
            self._report(record, writer, wandb)
            if last or step % spec.checkpoint_every == 0:
                self.terminal.phase("checkpoint")
                checkpoints.save(step, state, {"step": step, "stage": stage.name})
        return state

    def _step(
        self, state: TrainState, reference: Any, stage: StageSpec, place: int, step: int
    ) -> tuple[TrainState, dict[str, Any]]:
        """Step number `step` (from 1), which is number `place` (from 0) of its stage."""
        times: dict[str, float] = {}
        began = time.perf_counter()
        temperature = make_schedule(stage.temperature)(place)
        scalars = Scalars(make_schedule(stage.learning_rate)(place), temperature, stage.kl_coefficient)
        indices = self.indices(step)
        problems = [self.pools[stage.name][index] for index in indices]
        with self._phase("rollout", times):
            prompts, completions = self.complete(state.params, step, indices, np.arange(stage.samples))
        with self._phase("reward", times):
            rollout = score_completions(self.dialogue, problems, prompts, completions)
            batch = make_batch(rollout, self.machine.longest)
        with self._phase("reference", times):
            batch, penalty = self._refer(batch, state, reference, scalars)
            batch = with_advantages(batch, rollout, self.spec.loss.advantage, penalty)
        with self._phase("update", times):
            state, info = self.machine.update(state, None, batch, scalars)
            info = jax.device_get(info)
        if step % self.spec.rollouts_every == 0:
            records = to_records(rollout, batch, self.dialogue, step, stage.name, indices)
            write_rollouts(self.spec.workdir / "rollouts", step, records)
        record = {"step": step, "stage": stage.name, "learning_rate": scalars.learning_rate,
                  "temperature": temperature, "kl_coefficient": scalars.kl_coefficient}
        record |= rollout_metrics(rollout) | update_metrics(info)
        found = warnings(record, info)
        record |= {"warnings": found} if found else {}
        times["time/step"] = time.perf_counter() - began
        speeds = {
            "speed/rollout_tokens_per_second": record["tokens/rollout"] / times["time/rollout"],
            "speed/update_tokens_per_second": record["tokens/update"] / times["time/update"],
            "memory/peak_bytes": _peak_bytes(),
        }
        return state, record | times | speeds

    def indices(self, step: int) -> np.ndarray:
        """Which problems of its stage's pool step `step` (from 1) asks."""
        stage, place = self.spec.stage_of(step)
        seed = (self.spec.seed, self.spec.stages.index(stage))
        return choose(len(self.pools[stage.name]), stage.prompts, seed, place)

    def complete(
        self, params: Any, step: int, indices: np.ndarray, samples: np.ndarray
    ) -> tuple[list[list[int]], Completions]:
        """Prompts of these problems, and completions with these sample numbers, as step `step` draws them.

        They are functions of the arguments alone (law 1), so a few of a step's completions are those of the whole step.
        """
        stage, place = self.spec.stage_of(step)
        prompts = [self.dialogue.encode(self.pools[stage.name][index]) for index in indices]
        weights = self.machine.sampler.decode_weights(params)
        coordinates = Coordinates(self.spec.seed, step, indices.astype(np.int32), samples.astype(np.int32))
        drawing = self.dialogue.drawing(stage.max_new_tokens, make_schedule(stage.temperature)(place),
                                        top_k=stage.top_k, top_p=stage.top_p, min_p=stage.min_p)
        return prompts, self.machine.sampler.sample(weights, prompts, len(samples), coordinates, drawing)

    def _refer(
        self, batch: Batch, state: TrainState, reference: Any, scalars: Scalars
    ) -> tuple[Batch, np.ndarray | None]:
        """The batch with reference log-probabilities, and the penalty [B, T] where the KL stands in the reward."""
        loss = self.spec.loss
        if reference is None:
            return batch, None
        referred = self.machine.logp(reference, batch.tokens, batch.lengths, scalars.temperature)
        batch = batch._replace(ref_logp=referred * batch.loss_mask)
        if loss.kl_placement != "reward":
            return batch, None
        own = self.machine.logp(state.params, batch.tokens, batch.lengths, scalars.temperature) * batch.loss_mask
        penalty = scalars.kl_coefficient * np.asarray(ESTIMATORS[loss.kl](own, batch.ref_logp)) * batch.loss_mask
        return batch._replace(old_logp=own), penalty

    def _evaluate(self, state: TrainState, name: str, step: int) -> EvaluationResult:
        """The held-out problems with the weights of `state`; stored in evaluations/."""
        spec, asked = self.spec.evaluation, self.spec
        judge = dataclasses.replace(self.dialogue, rule=spec.rule or asked.rule).judge
        weights = self.machine.sampler.decode_weights(state.params)

        def generate(prompts: list[list[int]], group_size: int, step: int, greedy: bool):
            self.terminal.phase(f"evaluation, {'greedy' if greedy else 'sampled'}")
            coordinates = Coordinates(asked.seed ^ _EVALUATION_SEED, step, np.arange(len(prompts), dtype=np.int32),
                                      np.arange(group_size, dtype=np.int32))
            drawing = self.dialogue.drawing(spec.max_new_tokens, 0.0 if greedy else spec.temperature)
            return self.machine.sampler.sample(weights, prompts, group_size, coordinates, drawing)

        settings = {"temperature": spec.temperature, "max_new_tokens": spec.max_new_tokens, "seed": asked.seed}
        result = evaluate(
            generate, self.held_out, encode=self.dialogue.encode, decode=self.dialogue.decode,
            judge=judge,
            samples=spec.samples, step=step, name=name, model=str(asked.model), settings=settings,
            way_of=self.dialogue.way_of if asked.prompt.form == "terse" else None,
        )
        write_evaluation(asked.workdir, result)
        return result

    def _export(self, state: TrainState) -> None:
        if self.spec.export:
            self.terminal.phase("export")
            save_params(self.spec.workdir / "export", state.params, self.machine.config, source_folder=self.folder)

    def _longest(self) -> int:
        """Tokens of the longest prompt with the longest response that this run can ask for."""
        limits = [(self.pools[stage.name], stage.max_new_tokens) for stage in self.spec.stages]
        limits.append((self.held_out, self.spec.evaluation.max_new_tokens))
        return max(max(len(self.dialogue.encode(problem)) for problem in pool) + limit for pool, limit in limits)

    @property
    def _needs_reference(self) -> bool:
        return self.spec.loss.kl_placement != "none"

    @contextmanager
    def _phase(self, name: str, times: dict[str, float]):
        self.terminal.phase(name)
        began = time.perf_counter()
        yield
        times[f"time/{name}"] = time.perf_counter() - began

    def _report(self, record: dict[str, Any], writer: JsonlWriter, wandb: WandbWriter) -> None:
        writer.write(record)
        wandb.write(record)
        self.terminal.step(record)


def _evaluation_metrics(result: EvaluationResult) -> dict[str, float]:
    return to_metrics(result)


def _peak_bytes() -> int:
    """The most memory in use so far: on the fullest device, or of this process where devices do not tell."""
    peaks = [stats["peak_bytes_in_use"] for device in jax.local_devices() if (stats := device.memory_stats())]
    return max(peaks) if peaks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024



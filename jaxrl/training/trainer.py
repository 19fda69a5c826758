"""The training loop: steps, guard, evaluations and checkpoints of a run in its folder."""

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxrl.algorithms.advantages import Needs
from jaxrl.checkpointing.checkpoints import Checkpoints
from jaxrl.checkpointing.fingerprint import fingerprint
from jaxrl.checkpointing.restore import check_base, learned_parts, split_run
from jaxrl.checkpointing.retrying_writer import RetryingWriter
from jaxrl.checkpointing.saver import Saver
from jaxrl.evaluation.results import EvaluationResult, rows, to_metrics
from jaxrl.learning.state import TrainState, fresh_moments
from jaxrl.reporting.manifest import check_manifest, make_manifest, manifest_weights, write_manifest
from jaxrl.reporting.run_folder import read_evaluations
from jaxrl.reporting.terminal import Terminal
from jaxrl.runtime.hardware import check_attention, present_devices
from jaxrl.runtime.multihost import broadcast_from_primary, is_primary
from jaxrl.runtime.signals import Ended, Stopped, StopRequest, stop_on_signal
from jaxrl.training.compilation import compile_ahead, show_compilation
from jaxrl.training.components import build_components
from jaxrl.training.export import export_run
from jaxrl.training.guard import (
    drop_trips_after,
    find_cause,
    soundness_counts,
    soundness_warnings,
    store_rejected_step,
)
from jaxrl.training.held_out import evaluate_held_out
from jaxrl.training.initial_state import first_state, first_weights, frozen_reference
from jaxrl.training.problem_pools import load_problem_set
from jaxrl.training.progress import Progress, StepPlan, advance, plan_step, read_progress, roll_back
from jaxrl.training.responses import Demonstrations, SampledResponses
from jaxrl.training.rollout_records import rollout_records
from jaxrl.training.run_log import RunLog
from jaxrl.training.run_spec import RunSpec
from jaxrl.training.stage_spec import StageSpec
from jaxrl.training.step import Collected, Step
from jaxrl.training.step_metrics import stage_warnings, step_record, suspect_warnings
from jaxrl.training.timing import PhaseTimer
from jaxrl.training.workdir import claim_run_folder

BEFORE, AFTER = "before", "after"


class Accepted(NamedTuple):
    """A step that the guard accepts: the new state, and what is stored of the step."""

    state: TrainState
    collected: Collected
    record: dict[str, Any]
    evaluation: EvaluationResult | None


class Rejected(NamedTuple):
    """A step that the guard rejects, and why. `collected` is None if no batch could be made."""

    state: TrainState
    collected: Collected | None
    record: dict[str, Any]
    cause: str


class Trainer:
    """A training run in its folder. `train` starts it, or resumes it from its last checkpoint.

    spec: its `init_from` must be resolved, see `initial_state.resolve_init_from`.
    config: the config as plain dicts, for the run folder.
    """

    # Set by `train`.
    saver: Saver
    run_log: RunLog
    evaluations: dict[str, EvaluationResult]

    def __init__(self, spec: RunSpec, model_folder: Path, terminal: Terminal, config: dict[str, Any]):
        self.spec, self.model_folder, self.terminal, self.config = spec, model_folder, terminal, config
        self.problem_set, model_config = load_problem_set(spec, model_folder)
        self.components = build_components(spec, model_config, self.problem_set.longest_row(spec))
        self.supervised = spec.algorithm.loss.needs is Needs.SOLVER
        if self.supervised:
            responses = Demonstrations(spec, self.problem_set)
        else:
            responses = SampledResponses(self.components, self.problem_set, self._show_and_poll)
        self.step = Step(spec.algorithm, self.components, self.problem_set, responses)
        self.shown_stage: StageSpec | None = None
        self.stop: StopRequest | None = None  # set before the first step

    def train(self) -> dict[str, EvaluationResult]:
        """Take all remaining steps, and export. Returns the evaluations by name, `BEFORE` and `AFTER` among them.

        Raises ValueError before anything is written if the run cannot continue in this folder, Stopped at a signal,
        with the state saved, and Ended if the guard ends the run.
        """
        workdir = self.spec.workdir
        devices = present_devices(self.components.mesh.devices.flat)
        check_attention(self.spec.model.attention, devices)
        if broadcast_from_primary(manifest_weights(workdir)):
            check_manifest(workdir, self.manifest())
        with claim_run_folder(workdir, self.config) as changes, show_compilation(self.terminal):
            state = self._run(changes)
            if self.spec.export:
                self.terminal.phase("export")
                export_run(self.spec, state, self.components.config, self.model_folder, self.terminal.log)
        return self.evaluations

    def manifest(self, params: Any = None) -> dict[str, Any]:
        """What the run's numbers depend on besides its config; see `make_manifest`.

        params: the weights before step 1; None: use the fingerprint in the run's manifest, or load them.
        """
        problems = {name: [problem.id for problem in pool] for name, pool in self.problem_set.pools.items()}
        problems["held_out"] = [problem.id for problem in self.problem_set.held_out]
        weights = "" if params else broadcast_from_primary(manifest_weights(self.spec.workdir))
        weights = weights or fingerprint(params or first_weights(self.components, self.spec, self.model_folder))
        return make_manifest(self.spec.reward.rule, problems, weights, self.spec.model.init_from)

    def _run(self, changes: Sequence[str]) -> TrainState:
        """Open checkpoints and log, restore the state, and take all steps. Returns the final state.

        changes: lines about fields that differ from the last start.
        """
        spec = self.spec
        with ExitStack() as stack:
            if spec.layout.compile_ahead:
                stack.enter_context(compile_ahead(self.components, sampled=not self.supervised))
            checkpoints = stack.enter_context(Checkpoints(spec.workdir / "checkpoints", spec.checkpoint))
            writer = RetryingWriter(spec.checkpoint.patience, self.terminal.log)
            self.saver = Saver(checkpoints, writer)
            state, progress = self._restore(max(checkpoints.steps(), default=None))
            self._log_start(state, progress)
            self.run_log = stack.enter_context(RunLog(spec, self.config, self.terminal, writer, progress.step))
            if is_primary():
                drop_trips_after(spec.workdir / "guard", progress.trips)
            initial = None if progress.step else state.full_params
            for line in (*changes, *write_manifest(spec.workdir, self.manifest(initial), progress.step)):
                self.terminal.log(line)
            reference = None
            if spec.algorithm.loss.kl_placement != "none" and not spec.algorithm.reference.moves:
                reference = frozen_reference(self.components, spec, self.model_folder, state)
            self.evaluations = {}
            if is_primary():
                self.evaluations = {result.name: result for result in read_evaluations(spec.workdir)}
            if not self.run_log.has_records:
                self._evaluate_before(state)
            with stop_on_signal() as self.stop:
                state = self._take_steps(state, progress, reference)
            for step, low in checkpoints.best()[: spec.checkpoint.best]:
                self.terminal.log(f"among the best: checkpoint {step}, held-out accuracy at least {low:.1%}")
        return state

    def _take_steps(self, state: TrainState, progress: Progress, reference: Any) -> TrainState:
        stages = self.spec.stages
        try:
            while progress.stage < len(stages):
                plan = plan_step(stages, progress, self.spec.seed)
                state = self._enter_stage(state, plan)
                outcome = self._attempt(state, reference, plan)
                if isinstance(outcome, Rejected):
                    state, progress = self._reject(outcome, plan, progress)
                else:
                    state, progress = outcome.state, self._accept(outcome, plan, progress)
                self.stop.check()
        except Stopped as stopped:
            self.run_log.flush(final=True)
            self.saver.at_stop(progress.step, progress._asdict(), state)
            raise Stopped(f"after step {progress.step}: {stopped}") from None
        return state

    def _attempt(self, state: TrainState, reference: Any, plan: StepPlan) -> Accepted | Rejected:
        """One step and, if due, an evaluation. Nothing is written. `state` is donated once the rollout is collected."""
        record, collected, timer = {"step": plan.step}, None, PhaseTimer(self._show_and_poll)
        evaluation = None
        try:
            collected = self.step.collect(state, reference, plan, timer)
            with timer("update"):
                state, info = self.step.learn(state, collected.batch, plan)
            record = step_record(self.spec, self.components, plan, collected, info, timer, sampled=not self.supervised)
            cause = find_cause(plan.stage.guard, record)
            if not cause and self._is_evaluation_due(plan):
                evaluation = self._evaluate(state, plan.step)
        except FloatingPointError as error:
            cause = str(error)
        return Rejected(state, collected, record, cause) if cause else Accepted(state, collected, record, evaluation)

    def _accept(self, step: Accepted, plan: StepPlan, progress: Progress) -> Progress:
        """Write rollouts, evaluation, metrics and checkpoint of an accepted step. Returns the progress after it."""
        spec, record, score = self.spec, step.record, None
        if plan.step % spec.rollouts_every == 0:
            records = rollout_records(plan, step.collected, self.problem_set.prompt_format)
            self.run_log.add_rollouts(plan.step, records)
        if warnings := self._warnings(step.state, plan, record):
            record = record | {"warnings": warnings}
        if step.evaluation:
            record, score = record | to_metrics(step.evaluation), rows(step.evaluation)[-1].accuracy.low
        trips, progress = progress.trips, advance(spec.stages, progress, record)
        last = progress.stage == len(spec.stages)
        if step.evaluation:
            self._keep_evaluation(step.evaluation, AFTER if last else f"step_{plan.step:06d}")
        if progress.stage_step == 0 and plan.stage_step + 1 < plan.stage.steps:
            self.terminal.log(
                f"{plan.stage.name} ends early, after {plan.stage_step + 1} of {plan.stage.steps} steps: "
                f"{plan.stage.until.metric} is {record[plan.stage.until.metric]:.1%}."
            )
        self.run_log.add_metrics(record | {"guard/trips": trips})
        self.terminal.phase("checkpoint")
        self.run_log.flush(f"after step {plan.step + 1}", final=last)
        self.saver.after_step(progress.step, progress._asdict(), step.state, score, last=last)
        return progress

    def _reject(self, step: Rejected, plan: StepPlan, progress: Progress) -> tuple[TrainState, Progress]:
        """Store a rejected step, and roll back to the last due checkpoint (see `Retention`).

        Raises Ended if the guard's remedy is "stop" or its retries are used up.
        """
        self.saver.wait()
        guard, trips = self.spec.guard, progress.trips + 1
        folder = self.spec.workdir / "guard" / f"trip_{trips}"
        if is_primary():
            collected, batch, records = step.collected, None, []
            if collected:
                batch = collected.batch
                records = rollout_records(plan, collected, self.problem_set.prompt_format)
            write = partial(store_rejected_step, folder, plan.step, step.cause, step.record, batch, records)
            self.saver.writer.write_now(f"the rejected step {plan.step}", write)
        message = f"the guard rejected step {plan.step}: {step.cause} The step is stored in {folder}."
        if guard.remedy == "stop" or trips > guard.retries:
            raise Ended(
                f"{message} The run has rolled back {progress.trips} times; to resume from the last checkpoint, "
                "run the same command with another --config.guard.remedy, other bounds or more retries."
            )
        base = step.state.base
        for leaf in jax.tree.leaves(step.state._replace(base=None)):
            leaf.delete()  # frees memory for the restored state
        state, saved = self._restore(self.saver.checkpoints.last_due(progress.step), base)
        self.saver.checkpoints.delete_after(saved.step)
        self.run_log.drop_after(saved.step)
        self.evaluations = {name: result for name, result in self.evaluations.items() if result.step <= saved.step}
        self.terminal.log(
            f"{message} Rolled back to step {saved.step}; remedy {trips} of {guard.retries}: {guard.remedy}."
        )
        return state, roll_back(guard, saved, progress)

    def _restore(self, step: int | None, base: Any = None) -> tuple[TrainState, Progress]:
        """State and progress of a checkpoint, or of the beginning (None).

        base: frozen weights of a model with adapters, if they are loaded already. Raises ValueError if they are not
        the ones that the adapters were trained on.
        """
        components, spec = self.components, self.spec
        if step is None:
            state = components.init_state(base) if base else first_state(components, spec, self.model_folder)
            return state, Progress()
        state, note = self.saver.checkpoints.restore(components.abstract_state(), step)
        if spec.model.lora and base is None:
            base = first_weights(components, spec, self.model_folder)
            check_base(spec.workdir, base, spec.model.dtype)
        return state._replace(base=base), read_progress(note)

    def _log_start(self, state: TrainState, progress: Progress) -> None:
        """Log what the run resumes or starts from."""
        init_from = self.spec.model.init_from
        if progress.step:
            self.terminal.log(f"resuming after step {progress.step}")
        elif init_from:
            run, step = split_run(init_from)
            words = {"opt_state": "the optimizer's moments", "critic": "the critic"}
            parts = [] if self.spec.model.lora else learned_parts(run, state, step)
            if self.spec.stages[0].fresh_optimizer:
                parts = [part for part in parts if part != "opt_state"]
            names = ["the weights", *(words[part] for part in parts)]
            self.terminal.log(f"starting from {init_from}: {' and '.join(names)}{'' if parts else ' only'}")

    def _enter_stage(self, state: TrainState, plan: StepPlan) -> TrainState:
        """Announce a stage when it begins or is resumed; reset the optimizer if the stage asks for that."""
        if plan.stage is not self.shown_stage:
            self.shown_stage = plan.stage
            first = plan.step - plan.stage_step
            self.terminal.stage(plan.stage.name, first, first + plan.stage.steps - 1)
            for warning in self._stage_warnings(state, plan):
                self.terminal.log(f"warning: {warning}")
            if self.spec.algorithm.optimizer_steps == 1 and not self.supervised:
                self.terminal.log(
                    "ratio/mean is 1 as expected: each rollout is used for one update (algorithm.epochs and "
                    "minibatches), so nothing is clipped."
                )
        if plan.stage.fresh_optimizer and plan.stage_step == 0:
            return fresh_moments(state, self.components.optimizer, self.components.critic)
        return state

    def _stage_warnings(self, state: TrainState, plan: StepPlan) -> list[str]:
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        return stage_warnings(plan.stage, parameters, self.spec.model.lora is not None)

    def _warnings(self, state: TrainState, plan: StepPlan, record: dict[str, Any]) -> list[str]:
        """All warnings about a step; the first step of a stage has those about the stage's settings too."""
        first = self._stage_warnings(state, plan) if plan.stage_step == 0 else []
        suspects = suspect_warnings(record, plan.stage.guard.suspects_warn)
        counts = [*self.run_log.soundness, *soundness_counts([record])]
        return [*first, *record.get("warnings", ()), *suspects, *soundness_warnings(plan.stage.guard, counts)]

    def _is_evaluation_due(self, plan: StepPlan) -> bool:
        every, stages = self.spec.evaluation.every, self.spec.stages
        last = plan.stage is stages[-1] and plan.stage_step + 1 == plan.stage.steps
        return last or bool(every and plan.step % every == 0)

    def _evaluate(self, state: TrainState, step: int) -> EvaluationResult:
        return evaluate_held_out(self.spec, self.components, self.problem_set, state, step, self.terminal.phase)

    def _evaluate_before(self, state: TrainState) -> None:
        """Evaluate before the first step, and write the line of step 0."""
        self._keep_evaluation(self._evaluate(state, 0), BEFORE)
        self.run_log.add_metrics({"step": 0} | to_metrics(self.evaluations[BEFORE]))
        self.run_log.flush(final=True)

    def _keep_evaluation(self, result: EvaluationResult, name: str) -> None:
        self.evaluations[name] = dataclasses.replace(result, name=name)
        self.run_log.add_evaluation(self.evaluations[name])

    def _show_and_poll(self, *phase: Any) -> None:
        """Show the progress of a rollout; between decode chunks is where a signal can stop the run at once."""
        self.terminal.phase(*phase)
        if self.stop:
            self.stop.poll()

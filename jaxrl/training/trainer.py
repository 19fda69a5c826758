"""The training loop: rollout, reward, update, measures; guard, checkpoints, evaluation and export around it."""

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrl.checkpointing.checkpoints import Checkpoints
from jaxrl.checkpointing.fingerprint import fingerprint
from jaxrl.checkpointing.restore import check_base, learned_parts, open_params, origin, split_run, with_step
from jaxrl.checkpointing.saver import Saver
from jaxrl.evaluation.evaluate import evaluate
from jaxrl.evaluation.results import EvaluationResult, rows, to_metrics
from jaxrl.learning.state import TrainState, fresh_moments
from jaxrl.reporting.run_folder import read_evaluations
from jaxrl.reporting.terminal import Terminal
from jaxrl.runtime.hardware import present_devices
from jaxrl.runtime.multihost import broadcast_from_primary, fetch, is_primary, run_on_primary
from jaxrl.runtime.signals import Ended, Signals, Stopped
from jaxrl.sampling import Coordinates
from jaxrl.tasks.prompting import PromptFormat
from jaxrl.training.components import build_components, check_attention, first_state, first_weights, frozen_reference
from jaxrl.training.guard import drop_trips_after, dump, find_cause
from jaxrl.training.manifest import check_manifest, make_manifest, manifest_weights, write_manifest
from jaxrl.training.problem_pools import load_problem_set
from jaxrl.training.progress import Progress, StepPlan, advance, gone_back, plan_step
from jaxrl.training.run_log import Ledger, explained
from jaxrl.training.run_spec import RunSpec
from jaxrl.training.step import Collected, Steps
from jaxrl.training.step_metrics import stage_warnings, suspect_warnings
from jaxrl.training.supervised_step import SupervisedSteps
from jaxrl.training.workdir import claimed
from models.adapter_folder import save_adapter
from models.convert import save_params

BEFORE, AFTER = "before", "after"
# Evaluation draws from a seed of its own: its completions must not repeat those of any training step.
_EVALUATION_SEED = 0x5EED


class Run:
    """A training run over its folder. `train()` starts it, or goes on where it was killed."""

    signals: Signals  # these while `train` runs
    saver: Saver
    ledger: Ledger
    found: dict[str, EvaluationResult]
    prompt_format: PromptFormat

    def __init__(self, spec: RunSpec, model_folder: Path, terminal: Terminal, config: dict[str, Any]):
        self.spec, self.folder, self.terminal, self.config = spec, model_folder, terminal, config
        self.asked, model_config = load_problem_set(spec, model_folder)
        self.prompt_format, self.held_out, self.pools = self.asked.prompt_format, self.asked.held_out, self.asked.pools
        self.components = build_components(spec, model_config, self.asked.longest_row(spec))
        kind = SupervisedSteps if spec.algorithm.loss.needs == "solver" else Steps
        self.steps = kind(spec, self.components, self.prompt_format, self.pools, terminal)

    def train(self) -> dict[str, EvaluationResult]:
        """All steps that are still to be done; returns the evaluations before and after.

        Raises ValueError, before anything is written, where the devices' memory can't hold them; Stopped at a signal,
        with what was learned saved; Ended where the guard gives up. A signal while it does not learn is not taken here.
        """
        spec = self.spec
        devices = present_devices(self.components.mesh.devices.flat)
        check_attention(spec.model.attention, on_cpu=devices.on_cpu)
        if broadcast_from_primary(manifest_weights(spec.workdir)):
            check_manifest(spec.workdir, self.manifest())
        with claimed(spec.workdir, self.config) as changes:
            state = self._learn(changes)
            self._export(state)
        return self.found

    def _learn(self, changes: Sequence[str]) -> TrainState:
        """The steps, with all that is kept of them. changes: what the config has not as at the last start."""
        spec = self.spec
        with ExitStack() as stack:
            checkpoints = stack.enter_context(Checkpoints(spec.workdir / "checkpoints", spec.checkpoint))
            self.saver = Saver(checkpoints, self.terminal.log)
            state, progress = self._state_of(max(checkpoints.steps(), default=None))
            if progress.step:
                self.terminal.log(f"going on after step {progress.step}")
            elif spec.model.init_from:
                self.terminal.log(f"starts from {self.spec.model.init_from}: its weights{self._inherited(state)}")
            self.ledger = stack.enter_context(Ledger(spec, self.config, self.terminal, progress.step))
            if is_primary():
                drop_trips_after(spec.workdir / "guard", progress.trips)
            now = self.manifest(None if progress.step else _first_weights(state))
            for line in (*changes, *write_manifest(spec.workdir, now, progress.step)):
                self.terminal.log(line)
            reference = None
            if self._needs_reference:
                reference = frozen_reference(self.components, spec, self.folder, state)
            self.found = {result.name: result for result in read_evaluations(spec.workdir)} if is_primary() else {}
            if not self.ledger.begun:
                self._keep(self._evaluate(state, 0), BEFORE)
                self.ledger.write({"step": 0} | to_metrics(self.found[BEFORE]))
                self.ledger.settle("", final=True)  # nothing is learned yet that memory would have to keep
            with Signals(alone=jax.process_count() == 1) as self.signals:
                state = self._go_on(state, progress, reference)
            for step, low in checkpoints.best()[: spec.checkpoint.best]:
                self.terminal.log(f"among the best: checkpoint {step}, held-out accuracy at least {low:.1%}")
        return state

    def manifest(self, params: Any = None) -> dict[str, Any]:
        """What this run's numbers rest on besides its config; see `make_manifest`.

        params: the weights before step 1; None: as the run's own manifest has them, or loaded for this.
        """
        problems = {name: [problem.id for problem in pool] for name, pool in self.pools.items()}
        problems["held_out"] = [problem.id for problem in self.held_out]
        weights = "" if params else broadcast_from_primary(manifest_weights(self.spec.workdir))
        weights = weights or fingerprint(params or first_weights(self.components, self.begun_from(), self.folder))
        return make_manifest(self.spec.reward.rule, problems, weights, self.spec.model.init_from)

    def _state_of(self, step: int | None, base: Any = None) -> tuple[TrainState, Progress]:
        """The state of a checkpoint and how far the run was then; None: the beginning.

        base: of a model with adapters, its frozen weights, if they are at hand. Raises ValueError where they are no
        longer to be had as they were.
        """
        components = self.components
        if step is None:
            return components.begin(base) if base else first_state(
                components, self.begun_from(), self.folder
            ), Progress()
        state, meta = self.saver.checkpoints.restore(components.abstract(), step)
        if self.spec.model.lora and base is None:
            base = first_weights(components, self.begun_from(), self.folder)
            check_base(self.spec.workdir, base, self.spec.model.dtype)
        return state._replace(base=base), Progress(**meta)

    def _go_on(self, state: TrainState, progress: Progress, reference: Any) -> TrainState:
        stages, shown = self.spec.stages, None
        try:
            while progress.stage < len(stages):
                plan = plan_step(stages, progress)
                if plan.stage is not shown:
                    self._announce(plan, state)
                    shown = plan.stage
                if plan.stage.fresh_optimizer and plan.place == 0:
                    state = fresh_moments(state, self.components.optimizer, self.components.critic)
                drawn, record, cause = None, {"step": plan.step}, ""
                try:
                    drawn = self.steps.draw(state, reference, plan)
                except FloatingPointError as error:
                    cause = str(error)
                with self.signals.held():
                    result = None
                    if not cause:
                        state, record = self.steps.learn(state, plan, drawn)
                        cause = find_cause(plan.stage.guard, record)
                    if not cause and self._evaluates(plan):
                        try:
                            result = self._evaluate(state, plan.step)
                        except FloatingPointError as error:
                            cause = str(error)
                    if cause:
                        state, progress = self._go_back(state, progress, plan, drawn, record, cause)
                    else:
                        progress = self._finish(state, progress, plan, drawn, record, result)
        except Stopped as stopped:
            self.ledger.settle("", final=True)
            self.saver.at_stop(progress.step, progress._asdict(), state)
            raise Stopped(f"after step {progress.step}: {stopped}") from None
        return state

    def _announce(self, plan: StepPlan, state: TrainState) -> None:
        first, stage = plan.step - plan.place, plan.stage
        self.terminal.stage(stage.name, first, first + stage.steps - 1)
        for warning in self._stage_warnings(plan, state):
            self.terminal.log(f"warning: {warning}")
        if self.spec.algorithm.optimizer_steps == 1 and self.spec.algorithm.loss.needs != "solver":
            self.terminal.log(
                "ratio/mean is 1 as expected: each rollout is used for one update (algorithm.epochs and "
                "minibatches), so nothing is clipped."
            )

    def _stage_warnings(self, plan: StepPlan, state: TrainState) -> list[str]:
        parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        return stage_warnings(plan.stage, parameters, self.spec.model.lora is not None)

    def _warnings(self, state: TrainState, plan: StepPlan, record: dict[str, Any]) -> list[str]:
        """What is wrong with a step, and at a stage's first with the stage, as its record keeps it."""
        first = self._stage_warnings(plan, state) if plan.place == 0 else []
        return [*first, *record.get("warnings", ()), *suspect_warnings(record, plan.stage.guard.suspects_warn)]

    def _evaluates(self, plan: StepPlan) -> bool:
        every = self.spec.evaluation.every
        last = plan.stage is self.spec.stages[-1] and plan.place + 1 == plan.stage.steps
        return last or bool(every and plan.step % every == 0)

    def _finish(
        self,
        state: TrainState,
        progress: Progress,
        plan: StepPlan,
        drawn: Collected,
        record: dict[str, Any],
        result: EvaluationResult | None,
    ) -> Progress:
        """Write down a step that may stay: rollouts, evaluation, metrics, checkpoint. How far the run is then."""
        spec, stages, score = self.spec, self.spec.stages, None
        if plan.step % spec.rollouts_every == 0:
            groups = self.steps.records(plan, drawn)
            self.ledger.write_samples(plan.step, groups)
        if found := self._warnings(state, plan, record):
            record = record | {"warnings": found}
        if result:
            record, score = record | to_metrics(result), rows(result)[-1].accuracy.low
        trips, progress = progress.trips, advance(stages, progress, record)
        last = progress.stage == len(stages)
        if result:
            self._keep(result, AFTER if last else f"step_{plan.step:06d}")
        if progress.place == 0 and plan.place + 1 < plan.stage.steps:
            self.terminal.log(
                f"{plan.stage.name} ends early, after {plan.place + 1} of {plan.stage.steps} steps: "
                f"{plan.stage.until.metric} is {record[plan.stage.until.metric]:.1%}."
            )
        self.ledger.write(record | {"guard/trips": trips})
        self.terminal.phase("checkpoint")
        written = self.ledger.settle(f"after step {plan.step + 1}", final=last)
        self.saver.after_step(progress.step, progress._asdict(), state, score, last=last, written=written)
        return progress

    def _go_back(
        self,
        state: TrainState,
        progress: Progress,
        plan: StepPlan,
        drawn: Collected | None,
        record: dict[str, Any],
        cause: str,
    ) -> tuple[TrainState, Progress]:
        """Undo a refused step and those since the last due checkpoint; raises Ended where the limit is reached."""
        self.saver.before_going_back()
        guard, trips = self.spec.guard, progress.trips + 1
        folder = self.spec.workdir / "guard" / f"trip_{trips}"
        if is_primary():
            groups = self.steps.records(plan, drawn) if drawn else []
            with explained(f"the refused step {plan.step}"):
                dump(folder, plan.step, cause, record, drawn and drawn.batch, groups)
        said = f"the guard refused step {plan.step}: {cause} The step is kept in {folder}."
        if guard.remedy == "stop" or trips > guard.retries:
            raise Ended(
                f"{said} It had gone back {progress.trips} times; to go on from the last checkpoint, start the "
                "same command again with another --config.guard.remedy, other bounds or more retries."
            )
        base = state.base
        for leaf in jax.tree.leaves(state._replace(base=None)):
            leaf.delete()  # room for the state that comes back
        state, saved = self._state_of(self.saver.checkpoints.last_due(progress.step), base)
        self.saver.checkpoints.delete_after(saved.step)
        self.ledger.cut_back(saved.step)
        self.found = {name: result for name, result in self.found.items() if result.step <= saved.step}
        self.terminal.log(f"{said} Back to step {saved.step}, remedy {trips} of {guard.retries}: {guard.remedy}.")
        return state, gone_back(guard, saved, progress)

    def _evaluate(self, state: TrainState, step: int) -> EvaluationResult:
        """The held-out problems with the weights of `state`."""
        spec, asked = self.spec.evaluation, self.spec
        weights = self.components.decode_weights(state)

        def generate(prompts: list[list[int]], group_size: int, step: int, greedy: bool):
            told = partial(self.terminal.phase, f"evaluation, {'greedy' if greedy else 'sampled'}")
            told()
            coordinates = Coordinates(
                asked.seed ^ _EVALUATION_SEED,
                step,
                np.arange(len(prompts), dtype=np.int32),
                np.arange(group_size, dtype=np.int32),
            )
            drawing = self.prompt_format.sampling_spec(spec.max_new_tokens, 0.0 if greedy else spec.temperature)
            return self.components.sampler.sample(weights, prompts, group_size, coordinates, drawing, told)

        judge = dataclasses.replace(self.prompt_format, rule=spec.rule or asked.reward.rule).judge
        settings = {"temperature": spec.temperature, "max_new_tokens": spec.max_new_tokens, "seed": asked.seed}
        return evaluate(
            generate,
            self.held_out,
            encode=self.prompt_format.encode,
            decode=self.prompt_format.decode,
            judge=judge,
            samples=spec.samples,
            step=step,
            model=asked.model.path,
            settings=settings,
            classify=self.prompt_format.classify,
        )

    def _keep(self, result: EvaluationResult, name: str) -> None:
        """Store an evaluation in evaluations/ under this name."""
        self.found[name] = dataclasses.replace(result, name=name)
        self.ledger.write_evaluation(self.found[name])

    def _export(self, state: TrainState) -> None:
        if self.spec.export:
            self.terminal.phase("export")
            workdir, lora = self.spec.workdir, self.spec.model.lora
            params = state.params if jax.process_count() == 1 else fetch(state.params)
            if is_primary() and lora:
                if self.spec.model.init_from:
                    self.terminal.log(
                        f"no adapter/ is written: the adapters belong to the weights of {self.spec.model.init_from}, which "
                        "no model folder holds yet. Export these, then: python -m jaxrl.export --adapter "
                        f"--checkpoint={workdir} --source=THAT_FOLDER --output=ADAPTER_FOLDER."
                    )
                else:
                    save_adapter(workdir / "adapter", params, lora, self.spec.model.path)
                params, _ = open_params(
                    workdir, self.components.config, folder=self.folder
                )  # with the base's own digits
            if is_primary():
                save_params(workdir / "export", params, self.components.config, source_folder=self.folder)
            broadcast_from_primary(True)  # no process ends before all is written

    def begun_from(self) -> RunSpec:
        """The specification with the step of the run that this one starts from. The newest is asked for once, for that
        run may be going on; the manifest keeps it. Raises as `with_step`."""
        if self.spec.model.init_from:
            begun = run_on_primary(lambda: with_step(origin(self.spec.workdir, self.spec.model.init_from)))
            self.spec = self.spec.changed(model={"init_from": begun})
        return self.spec

    def _inherited(self, state: TrainState) -> str:
        """What else than weights a run that starts from another goes on with, in words."""
        run, step = split_run(self.spec.model.init_from)
        words = {"opt_state": "the moments of its optimizer", "critic": "its critic"}
        parts = [] if self.spec.model.lora else learned_parts(run, state, step)
        if self.spec.stages[0].fresh_optimizer:  # it forgets them
            parts = [part for part in parts if part != "opt_state"]
        return "".join(f" and {words[part]}" for part in parts) if parts else " alone"

    @property
    def _needs_reference(self) -> bool:
        """Whether weights that stay as they are have to be loaded: a reference that follows is part of the state."""
        return self.spec.algorithm.loss.kl_placement != "none" and not self.spec.algorithm.reference.follows


def _first_weights(state: TrainState) -> Any:
    """Of a state before step 1: what it began with, without the adapters that it drew."""
    return state.params if state.base is None else state.base

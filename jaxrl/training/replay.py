"""One completion of a past run, drawn again from its coordinates."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrl.checkpointing.restore import check_base, checkpoint_folder, restore_tree, run_steps
from jaxrl.learning.state import TrainState
from jaxrl.reporting.rollouts import read_rollouts, rollout_path, rollout_steps
from jaxrl.reporting.writers import read_metrics
from jaxrl.training.components import first_state, first_weights, restore_weights
from jaxrl.training.progress import StepPlan, stored_plan
from jaxrl.training.trainer import Run


class Response(NamedTuple):
    """What a run stores of a completion itself: its text, its tokens (the end token included), whether it ended."""

    text: str
    length: int
    finished: bool


class Replayed(NamedTuple):
    """A response as it was stored, and as it came again."""

    prompt: str
    stored: Response
    again: Response

    @property
    def identical(self) -> bool:
        """Whether the two are the same in all that is stored."""
        return self.stored == self.again

    @property
    def differences(self) -> list[str]:
        """What is not the same, a phrase each."""
        pairs = zip(Response._fields, self.stored, self.again, strict=True)
        return [
            name if name == "text" else f"{name} (stored {stored}, now {again})"
            for name, stored, again in pairs
            if stored != again
        ]


def replay(run: Run, step: int, prompt: int, sample: int) -> Replayed:
    """Completion `sample` of the `prompt`-th prompt (both from 0) of step `step` (from 1), from the weights it had.

    Needs the stored rollouts of the step and the checkpoint of the step before; step 1 starts from the model. Raises
    FileNotFoundError where one of them is missing, ValueError for a place that the step does not have.
    """
    spec = run.spec
    plan = _plan(run, step)
    stage = plan.stage
    path = rollout_path(spec.workdir / "rollouts", step)
    if not path.is_file():
        raise FileNotFoundError(
            f"expected the rollouts of step {step} at {path}, found none; name a step that was "
            "stored (config field rollouts.every)."
        )
    groups = read_rollouts(path)
    for name, place, there in (("prompt", prompt, len(groups)), ("sample", sample, stage.samples)):
        if not 0 <= place < there:
            raise ValueError(f"{name}: expected 0 to {there - 1}, as step {step} has {there}, got {place}.")
    group = groups[prompt]
    index = np.array([group.prompt_index])
    prompts, completions = run.steps.complete(_state(run, step), plan, index, np.array([sample]))
    length = int(completions.lengths[0])
    again = Response(
        run.prompt_format.decode(completions.tokens[0, :length].tolist()), length, bool(completions.finished[0])
    )
    shown = run.prompt_format.tokenizer.decode(prompts[0], skip_special_tokens=False)
    stored = group.responses[sample]
    return Replayed(shown, Response(stored.response, stored.length, stored.finished), again)


def _plan(run: Run, step: int) -> StepPlan:
    """What the step did, from its line of metrics.jsonl: where a stage ended and what the guard changed stand there."""
    records = read_metrics(run.spec.workdir / "metrics.jsonl")
    last = records[-1]["step"] if records else 0
    if not 1 <= step <= last:
        raise ValueError(f"step: expected 1 to {last}, the steps that {run.spec.workdir} has done, got {step}.")
    return stored_plan(run.spec.stages, next(record for record in records if record["step"] == step))


def _state(run: Run, step: int) -> TrainState:
    """The weights that step `step` sampled from, as a state without its moments."""
    if step == 1:
        return first_state(run.components, run.begun_from(), run.folder)
    workdir: Path = run.spec.workdir
    steps = run_steps(workdir) if (workdir / "checkpoints").is_dir() else []
    if step - 1 not in steps:
        stored = rollout_steps(workdir / "rollouts")
        usable = ", ".join(str(kept + 1) for kept in [0, *steps] if kept + 1 in stored)
        raise FileNotFoundError(
            f"step {step} sampled from the weights after step {step - 1}, which were not kept; "
            f"steps that can be drawn again: {usable} (checkpoint.keep_every keeps more)."
        )
    if not run.spec.lora:
        return TrainState(np.int32(step - 1), restore_weights(run.components, workdir, step - 1), None)
    base = first_weights(run.components, run.begun_from(), run.folder)
    check_base(workdir, base, run.spec.dtype)
    adapters = {"params": run.components.abstract().params}
    return TrainState(
        np.int32(step - 1), **restore_tree(checkpoint_folder(workdir, step - 1)[0], adapters), opt_state=None, base=base
    )

"""Sampling one completion of an earlier run again, from its coordinates."""

from typing import NamedTuple

import numpy as np

from jaxrl.checkpointing.restore import check_base, checkpoint_folder, restore_tree, run_steps
from jaxrl.learning.state import TrainState
from jaxrl.reporting.rollouts import read_rollouts, rollout_path, rollout_steps
from jaxrl.reporting.writers import read_metrics
from jaxrl.training.initial_state import first_state, first_weights, restore_weights
from jaxrl.training.progress import StepPlan, stored_plan
from jaxrl.training.trainer import Trainer


class StoredResponse(NamedTuple):
    """What a run stores of a completion: its text, its number of tokens (with the end token), and whether it ended."""

    text: str
    length: int
    finished: bool


class Replay(NamedTuple):
    """A response as it was stored, and as it was sampled again."""

    prompt: str
    stored: StoredResponse
    again: StoredResponse

    @property
    def identical(self) -> bool:
        """Whether everything that is stored is the same."""
        return self.stored == self.again

    @property
    def differences(self) -> list[str]:
        """One phrase for each field that differs."""
        pairs = zip(StoredResponse._fields, self.stored, self.again, strict=True)
        return [
            name if name == "text" else f"{name} (stored {stored}, now {again})"
            for name, stored, again in pairs
            if stored != again
        ]


def replay(trainer: Trainer, step: int, prompt: int, sample: int) -> Replay:
    """Sample completion `sample` of prompt `prompt` (both from 0) of step `step` (from 1) again.

    Needs the stored rollouts of the step and the checkpoint of the step before; step 1 starts from the model. Raises
    FileNotFoundError if one of them is missing, ValueError if the step has no such prompt or sample.
    """
    spec = trainer.spec
    plan = _plan(trainer, step)
    path = rollout_path(spec.workdir / "rollouts", step)
    if not path.is_file():
        raise FileNotFoundError(
            f"expected the rollouts of step {step} at {path}, found none; choose a step that was stored (config field "
            "rollouts.every)."
        )
    groups = read_rollouts(path)
    for name, index, count in (("prompt", prompt, len(groups)), ("sample", sample, plan.stage.samples)):
        if not 0 <= index < count:
            raise ValueError(f"{name}: expected 0 to {count - 1}, since step {step} has {count}, got {index}.")
    group = groups[prompt]
    stored = group.responses[sample]
    indices, samples = np.array([group.prompt_index]), np.array([sample])
    prompts, completions = trainer.step.responses.complete(_state(trainer, step), plan, indices, samples)
    prompt_format, length = trainer.problem_set.prompt_format, int(completions.lengths[0])
    text = prompt_format.decode(completions.tokens[0, :length].tolist())
    return Replay(
        prompt_format.tokenizer.decode(prompts[0], skip_special_tokens=False),
        StoredResponse(stored.response, stored.length, stored.finished),
        StoredResponse(text, length, bool(completions.finished[0])),
    )


def _plan(trainer: Trainer, step: int) -> StepPlan:
    """The settings of a step, from its line of metrics.jsonl."""
    workdir = trainer.spec.workdir
    records = read_metrics(workdir / "metrics.jsonl")
    last = records[-1]["step"] if records else 0
    if not 1 <= step <= last:
        raise ValueError(f"step: expected 1 to {last}, the steps of {workdir}, got {step}.")
    record = next(record for record in records if record["step"] == step)
    return stored_plan(trainer.spec.stages, record, trainer.spec.seed)


def _state(trainer: Trainer, step: int) -> TrainState:
    """The weights that step `step` sampled from, as a state without optimizer moments."""
    spec, components, model_folder = trainer.spec, trainer.components, trainer.model_folder
    if step == 1:
        return first_state(components, spec, model_folder)
    steps = run_steps(spec.workdir) if (spec.workdir / "checkpoints").is_dir() else []
    if step - 1 not in steps:
        stored = rollout_steps(spec.workdir / "rollouts")
        usable = ", ".join(str(kept + 1) for kept in [0, *steps] if kept + 1 in stored)
        raise FileNotFoundError(
            f"step {step} sampled from the weights after step {step - 1}, and that checkpoint was not kept; steps that "
            f"can be replayed: {usable} (checkpoint.keep_every keeps more)."
        )
    number = np.int32(step - 1)
    if not spec.model.lora:
        return TrainState(number, restore_weights(components, spec.workdir, step - 1), None)
    base = first_weights(components, spec, model_folder)
    check_base(spec.workdir, base, spec.model.dtype)
    folder, _ = checkpoint_folder(spec.workdir, step - 1)
    adapters = restore_tree(folder, {"params": components.abstract_state().params})
    return TrainState(number, **adapters, opt_state=None, base=base)

"""Supervised training of a small base model from random weights: phases, checkpoints, export.

The optimizer step, checkpoints and signal handling are the same as in reinforcement learning.
"""

import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrl.algorithms.batch import Batch
from jaxrl.algorithms.recipes import recipe
from jaxrl.base_model.batches import make_batch, prefetch, train_tokenizer
from jaxrl.base_model.spec import PhaseSpec, SupervisedSpec
from jaxrl.checkpointing.checkpoints import Checkpoints
from jaxrl.checkpointing.retrying_writer import RetryingWriter
from jaxrl.checkpointing.saver import Saver
from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.learning.micro_batches import LayoutSpec, length_buckets
from jaxrl.learning.optimizer import make_optimizer
from jaxrl.learning.state import TrainState, abstract_state, fresh_moments, init_params, init_state
from jaxrl.learning.update import Scalars, UpdateSpec, make_update
from jaxrl.runtime.signals import Stopped, StopRequest, stop_on_signal
from models.backends import platform_of, training_kernels
from models.config import Qwen2Config
from models.convert import save_params
from models.qwen2 import Qwen2

LOG_EVERY = 20  # steps


class Position(NamedTuple):
    """How far a run is: the index of its phase, and the steps and tokens of that phase already done."""

    phase: int = 0
    step: int = 0
    tokens: int = 0


def train_supervised(spec: SupervisedSpec, workdir: Path, output: Path, log: Callable[[str], None]) -> None:
    """Run all phases with checkpoints in `workdir`, then export to `output`. Resumes a run found in `workdir`.

    Raises Stopped at a signal, after saving a checkpoint.
    """
    tokenizer = train_tokenizer(spec)
    with Checkpoints(workdir / "checkpoints", spec.checkpoint) as checkpoints, stop_on_signal() as stop:
        params = _Training(spec, tokenizer, checkpoints, stop, log).run()
    save_base(output, params, spec.model, tokenizer)
    log(f"wrote {output}")


def save_base(output: Path, params: Any, config: Qwen2Config, tokenizer: Any) -> None:
    """Write weights, tokenizer and generation settings as a Hugging Face folder, atomically."""
    from transformers import GenerationConfig

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "base"
        save_params(source, params, config)
        tokenizer.save_pretrained(source)
        GenerationConfig(
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
        ).save_pretrained(source)
        save_params(output, params, config, source_folder=source)


class _Training:
    """The phases of a run, from its last checkpoint to the end."""

    def __init__(
        self,
        spec: SupervisedSpec,
        tokenizer: Any,
        checkpoints: Checkpoints,
        stop: StopRequest,
        log: Callable[[str], None],
    ):
        self.spec, self.tokenizer, self.checkpoints, self.stop, self.log = spec, tokenizer, checkpoints, stop, log
        self.saver = Saver(checkpoints, RetryingWriter(checkpoints.spec.patience, log))
        self.mesh = make_mesh(MeshSpec())
        kernels = training_kernels(platform_of(self.mesh))
        self.model = Qwen2(spec.model, unroll=spec.model.num_hidden_layers, kernels=kernels)
        self.optimizer = make_optimizer(spec.optimizer)
        layout = LayoutSpec(length_buckets(spec.longest, shortest=48, ratio=1.12), spec.micro_tokens)
        self.update = make_update(self.model, self.optimizer, recipe("sft"), self.mesh, UpdateSpec(layout))

    def run(self) -> Any:
        """Train to the end; returns the parameters."""
        state, position = self._restore_or_init()
        try:
            while position.phase < len(self.spec.phases):
                if position.step == 0:
                    state = fresh_moments(state, self.optimizer)  # those of another phase would mislead the first steps
                progress = _PhaseLog(self.spec.phases[position.phase], position, self.log)
                steps = itertools.count(position.step)
                batches = (make_batch(self.spec, position.phase, step, self.tokenizer) for step in steps)
                for batch in prefetch(batches):
                    self.stop.check()
                    state, position = self._step(state, position, batch, progress)
                    if position.step == 0:
                        break
        except Stopped as stopped:
            self.saver.at_stop(int(state.step), position._asdict(), state)
            name = self.spec.phases[position.phase].name
            raise Stopped(f"in phase {name}, after step {position.step}: {stopped}") from None
        return state.params

    def _restore_or_init(self) -> tuple[TrainState, Position]:
        if self.checkpoints.steps():
            state, note = self.checkpoints.restore(abstract_state(self.model, self.optimizer, self.mesh))
            position = Position(**note)
            self.log(f"resumes from {position}")
            return state, position
        params = init_params(self.model, self.mesh, jax.random.key(self.spec.seed))
        return init_state(self.model, self.optimizer, self.mesh, params), Position()

    def _step(
        self, state: TrainState, position: Position, batch: Batch, progress: "_PhaseLog"
    ) -> tuple[TrainState, Position]:
        """One optimizer step, logged and saved; the position after the last step of a phase is the next phase."""
        phase = self.spec.phases[position.phase]
        learning_rate = phase.learning_rate(position.tokens, position.step)
        state, info = self.update(state, batch, Scalars(learning_rate=learning_rate))
        position = Position(position.phase, position.step + 1, position.tokens + int(info["tokens"]))
        progress.add(position, float(info["loss"]), learning_rate)
        if position.tokens >= phase.tokens:
            position = Position(position.phase + 1)
        last = position.phase == len(self.spec.phases)
        self.saver.after_step(int(state.step), position._asdict(), state, None, last=last)
        return state, position


class _PhaseLog:
    """Logs loss and speed of a phase every LOG_EVERY steps and at its end."""

    def __init__(self, phase: PhaseSpec, position: Position, log: Callable[[str], None]):
        self.phase, self.log = phase, log
        self.losses: list[float] = []
        self.time, self.tokens = time.monotonic(), position.tokens

    def add(self, position: Position, loss: float, learning_rate: float) -> None:
        """Record the step that led to `position`."""
        self.losses.append(loss)
        left = self.phase.tokens - position.tokens
        if position.step % LOG_EVERY and left > 0:
            return
        now = time.monotonic()
        speed = (position.tokens - self.tokens) / (now - self.time)
        self.log(
            f"{self.phase.name}: step {position.step}, {position.tokens / 1e6:.2f} of {self.phase.tokens / 1e6:.2f} M "
            f"tokens, loss {np.mean(self.losses):.4f}, learning rate {learning_rate:.2e}, {speed:,.0f} tokens/s, "
            f"{max(left, 0) / speed / 60:.1f} minutes left"
        )
        self.time, self.tokens, self.losses = now, position.tokens, []

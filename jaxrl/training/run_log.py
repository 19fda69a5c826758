"""What a run writes down step by step, to metrics.jsonl, wandb and the terminal; and how steps are taken back."""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from jaxrl.checkpointing.saver import Patience
from jaxrl.evaluation.results import EvaluationResult
from jaxrl.reporting.rollouts import GroupRecord, drop_rollouts_after, write_rollouts
from jaxrl.reporting.run_folder import drop_evaluations_after, write_evaluation
from jaxrl.reporting.terminal import Terminal
from jaxrl.reporting.wandb_writer import WandbWriter
from jaxrl.reporting.writers import JsonlWriter
from jaxrl.runtime.multihost import broadcast_from_primary, is_primary
from jaxrl.training.run_spec import RunSpec


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns a refusal of the disk into one sentence that says what could not be written, and what to do."""
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"{what} can't be written: {error.strerror or error}; what the last checkpoint has "
            "is whole: make room, and start the same command again.",
        ) from error


class Ledger:
    """The lines of a run up to the step it goes on from, and from there on. Use as a context manager.

    What a step leaves for the folder is written by `settle`, in the order in which it was handed over; what the disk
    refuses waits in memory. Of several processes one writes. begun: whether the line of step 0 is written.
    """

    def __init__(self, spec: RunSpec, config: Mapping[str, Any], terminal: Terminal, done: int):
        self.spec, self.terminal = spec, terminal
        self.metrics: JsonlWriter | None = None
        self.patience = Patience(spec.checkpoint.patience, terminal.say)
        self._owed: collections.deque[tuple[str, Callable[[], None]]] = collections.deque()
        self.cut_back(done)
        self.wandb = WandbWriter(spec.wandb, spec.workdir, config, terminal.say) if is_primary() else None
        self.begun: bool = broadcast_from_primary(bool(self.metrics) and self.metrics.last_step >= 0)

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *error) -> None:
        if is_primary():
            self.metrics.close()
            self.wandb.close()

    def cut_back(self, done: int) -> None:
        """Take away all that was written of the steps after `done`."""
        if not is_primary():
            return
        if self.metrics:
            self.metrics.close()
        self._owed.clear()
        drop_rollouts_after(self.spec.workdir / "rollouts", done)
        drop_evaluations_after(self.spec.workdir, done)
        self.metrics = JsonlWriter(self.spec.workdir / "metrics.jsonl", done)

    def write_samples(self, step: int, groups: Sequence[GroupRecord]) -> None:
        """The responses of a step, for the run's folder and where somebody wants to read some."""
        if is_primary():
            self._owe(f"the rollouts of step {step}", write_rollouts, self.spec.workdir / "rollouts", step, groups)
            self.wandb.write_samples(step, groups)

    def write_evaluation(self, result: EvaluationResult) -> None:
        """An evaluation, under its name."""
        if is_primary():
            self._owe(f"the evaluation of step {result.step}", write_evaluation, self.spec.workdir, result)

    def write(self, record: Mapping[str, Any]) -> None:
        """One step's line, for everywhere."""
        if is_primary():
            self._owe(f"the metrics of step {record['step']}", self.metrics.write, record)
            self.wandb.write(record)
        self.terminal.step(record)

    def settle(self, again: str, *, final: bool = False) -> bool:
        """Write all that was handed over; whether that is done, in every process.

        Raises OSError where the disk refuses for more than checkpoint.patience times in a row, or is not tried `again`
        (`final`).
        """
        try:
            while self._owed:
                what, write = self._owed[0]
                write()
                self._owed.popleft()
            self.patience.succeeded()
        except OSError as error:
            said = OSError(error.errno, f"{error.strerror or error}; make room")
            self.patience.refused(f"{what} can't be written", said, again, final=final)
        return broadcast_from_primary(not self._owed)

    def _owe(self, what: str, write: Callable[..., None], *given: Any) -> None:
        self._owed.append((what, partial(write, *given)))

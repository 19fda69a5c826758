"""What a run writes down step by step, to metrics.jsonl, wandb and the terminal; and how steps are taken back."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from jaxrl.learning.processes import leads, shared
from jaxrl.reporting.rollouts import GroupRecord, drop_rollouts_after, write_rollouts
from jaxrl.reporting.run_folder import drop_evaluations_after
from jaxrl.reporting.terminal import Terminal
from jaxrl.reporting.wandb_writer import WandbWriter
from jaxrl.reporting.writers import JsonlWriter
from jaxrl.running.settings import RunSpec


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns a refusal of the disk into one sentence that says what could not be written, and what to do."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{what} can't be written: {error.strerror or error}; what the last checkpoint has "
                      "is whole: make room, and start the same command again.") from error


class Ledger:
    """The lines of a run up to the step it goes on from, and from there on. Use as a context manager.

    Of several processes one writes. begun: whether the line of step 0 is written.
    """

    def __init__(self, spec: RunSpec, config: Mapping[str, Any], terminal: Terminal, done: int):
        self.spec, self.terminal = spec, terminal
        self.metrics: JsonlWriter | None = None
        self.cut_back(done)
        self.wandb = WandbWriter(spec.wandb, spec.workdir, config, terminal.say) if leads() else None
        self.begun: bool = shared(bool(self.metrics) and self.metrics.last_step >= 0)

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *error) -> None:
        if leads():
            self.metrics.close()
            self.wandb.close()

    def cut_back(self, done: int) -> None:
        """Take away all that was written of the steps after `done`."""
        if not leads():
            return
        if self.metrics:
            self.metrics.close()
        drop_rollouts_after(self.spec.workdir / "rollouts", done)
        drop_evaluations_after(self.spec.workdir, done)
        self.metrics = JsonlWriter(self.spec.workdir / "metrics.jsonl", done)

    def write_samples(self, step: int, groups: Sequence[GroupRecord]) -> None:
        """The responses of a step, in the run's folder and where somebody wants to read some."""
        if leads():
            with explained(f"the rollouts of step {step}"):
                write_rollouts(self.spec.workdir / "rollouts", step, groups)
            self.wandb.write_samples(step, groups)

    def write(self, record: Mapping[str, Any]) -> None:
        """One step's line, everywhere."""
        if leads():
            with explained(f"the metrics of step {record['step']}"):
                self.metrics.write(record)
            self.wandb.write(record)
        self.terminal.step(record)

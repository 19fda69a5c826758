"""All that a run logs, behind one object: metrics.jsonl, rollouts, evaluations, wandb and the terminal."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from jaxrl.checkpointing.retrying_writer import RetryingWriter
from jaxrl.evaluation.results import EvaluationResult
from jaxrl.reporting.rollouts import GroupRecord, drop_rollouts_after, write_rollouts
from jaxrl.reporting.run_folder import drop_evaluations_after, write_evaluation
from jaxrl.reporting.terminal import Terminal
from jaxrl.reporting.wandb_writer import WandbWriter
from jaxrl.reporting.writers import JsonlWriter, read_metrics
from jaxrl.runtime.multihost import broadcast_from_primary, is_primary
from jaxrl.training.guard import SoundnessCount, soundness_counts
from jaxrl.training.run_spec import RunSpec


class RunLog:
    """The log of a run, truncated to the step that it resumes from. Use as a context manager.

    Files are written by `flush`, in the order of the calls; see `RetryingWriter`. Only the primary process writes.
    has_records: whether metrics.jsonl has the line of step 0. soundness: the counts of all steps so far that have them.
    """

    def __init__(
        self, spec: RunSpec, config: Mapping[str, Any], terminal: Terminal, writer: RetryingWriter, last_step: int
    ):
        self.workdir, self.terminal, self.writer = spec.workdir, terminal, writer
        self.metrics: JsonlWriter | None = None
        self.soundness: list[SoundnessCount] = []
        self.drop_after(last_step)
        self.wandb = WandbWriter(spec.wandb, spec.workdir, config, terminal.log) if is_primary() else None
        self.has_records: bool = broadcast_from_primary(bool(self.metrics) and self.metrics.last_step >= 0)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *error) -> None:
        if is_primary():
            self.metrics.close()
            self.wandb.close()

    def drop_after(self, last_step: int) -> None:
        """Remove everything that was written for later steps."""
        if not is_primary():
            return
        if self.metrics:
            self.metrics.close()
        self.writer.clear()
        drop_rollouts_after(self.workdir / "rollouts", last_step)
        drop_evaluations_after(self.workdir, last_step)
        self.metrics = JsonlWriter(self.workdir / "metrics.jsonl", last_step)
        self.soundness = soundness_counts(read_metrics(self.metrics.path))

    def add_rollouts(self, step: int, groups: Sequence[GroupRecord]) -> None:
        """Log the responses of a step."""
        if is_primary():
            write = partial(write_rollouts, self.workdir / "rollouts", step, groups)
            self.writer.add(f"the rollouts of step {step}", write)
            self.wandb.write_samples(step, groups)

    def add_evaluation(self, result: EvaluationResult) -> None:
        """Log an evaluation, under its name."""
        if is_primary():
            write = partial(write_evaluation, self.workdir, result)
            self.writer.add(f"the evaluation of step {result.step}", write)

    def add_metrics(self, record: Mapping[str, Any]) -> None:
        """Log the metrics of a step."""
        self.soundness += soundness_counts([record])
        if is_primary():
            self.writer.add(f"the metrics of step {record['step']}", partial(self.metrics.write, record))
            self.wandb.write(record)
        self.terminal.step(record)

    def flush(self, retry: str = "", *, final: bool = False) -> None:
        """Write to disk what was added. Every process must call it. For arguments and errors see `RetryingWriter`."""
        self.writer.flush(retry, final=final)

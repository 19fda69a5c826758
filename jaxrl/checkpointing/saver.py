"""When a run saves its state, and how it continues if a save fails."""

from collections.abc import Mapping
from typing import Any

from jaxrl.checkpointing.checkpoints import Checkpoints
from jaxrl.checkpointing.retrying_writer import RetryingWriter
from jaxrl.learning.state import TrainState


class Saver:
    """Saves the state when a checkpoint is due; the write runs in the background, beside the next steps.

    A failed save is reported at the end of a step, and repeated with the state of that step.
    """

    def __init__(self, checkpoints: Checkpoints, writer: RetryingWriter):
        self.checkpoints, self.writer = checkpoints, writer
        self._overdue = False  # a due save has not started, or has failed
        self._latest = 0  # step of the latest save

    def after_step(
        self, step: int, note: Mapping[str, Any], state: TrainState, score: float | None, *, last: bool
    ) -> None:
        """Save every `checkpoint.every` steps, at the last step, and if `score` may make this one of the best.

        note: the run's progress, the `meta` of the checkpoint. score: of an evaluation of this state. Waits for the
        previous save if another one is due, and for its own at the last step. A checkpoint must not be ahead of the
        metrics of its steps, so none is started while the writer's queue has writes. Raises OSError as
        `RetryingWriter.fail`, and if the save of the last step fails.
        """
        spec = self.checkpoints.spec
        scored = spec.best > 0 and score is not None
        due = last or scored or step % spec.every == 0
        self._finish(f"after step {step}", wait=due)
        self._overdue |= due
        if not (self._overdue and self.writer.is_empty):
            return
        try:
            self._start(step, note, state, score if scored else None)
            if last:
                self.checkpoints.wait()
        except OSError as error:
            self._fail(error, f"after step {step + 1}", final=last)

    def at_stop(self, step: int, note: Mapping[str, Any], state: TrainState) -> None:
        """Save the state of the last finished step, unless it is saved, and wait until it is on disk."""
        try:
            self.checkpoints.wait()
        except OSError:  # if it persists, the next save reports it
            self._overdue = True
        if step in (0, *self.checkpoints.steps()):
            return
        try:
            self._start(step, note, state, None, due=self._overdue)
            self.checkpoints.wait()
        except OSError as error:
            self._fail(error, "", final=True)

    def wait(self) -> None:
        """Wait for the write in progress; a failure is handled as in `after_step`."""
        self._finish("after the next step", wait=True)

    def _start(
        self, step: int, note: Mapping[str, Any], state: TrainState, score: float | None, *, due: bool = True
    ) -> None:
        self._overdue, self._latest = False, step
        self.checkpoints.save(step, state, note, score, due=due)

    def _finish(self, retry: str, *, wait: bool) -> None:
        """Handle the result of the write in progress, if it has ended or `wait` is set."""
        try:
            if wait:
                self.checkpoints.wait()
            elif not self.checkpoints.poll():
                return
        except OSError as error:
            self._fail(error, retry)
        if not self._overdue:
            self.writer.succeed()

    def _fail(self, error: OSError, retry: str, *, final: bool = False) -> None:
        self._overdue = True
        self.writer.fail(f"the checkpoint of step {self._latest}", error, retry, final=final)

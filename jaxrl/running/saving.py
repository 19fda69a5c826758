"""When a run saves, and what it does when it can't."""

import contextlib
from collections.abc import Callable

from jaxrl.learning.checkpoint import Checkpoints
from jaxrl.learning.state import TrainState
from jaxrl.running.progress import Progress


class Saver:
    """Saves a run's state where that is due, beside the steps that follow.

    A save that fails is said when that is known, at the end of a step, and tried again with the state of then.
    """

    def __init__(self, checkpoints: Checkpoints, say: Callable[[str], None]):
        self.checkpoints, self.say = checkpoints, say
        self.failed = 0
        self._owed, self._begun = False, 0  # whether a failed save is still to be tried again; the step of the last one

    def after_step(self, progress: Progress, state: TrainState, score: float | None, *, last: bool) -> None:
        """Every so many steps, at the end, and where `score` (of an evaluation) may make this one of the best.

        Waits for the save before where another is due, and for its own at the last step. Raises OSError once more than
        checkpoint.patience saves in a row have failed, and where that of the last step fails.
        """
        spec = self.checkpoints.spec
        scored = spec.best > 0 and score is not None
        due = last or scored or progress.step % spec.every == 0
        try:
            if due:
                self._settle()
            elif self.checkpoints.poll():
                self._ended()
        except OSError as error:
            self._failed(error, f"after step {progress.step}")
        if not (due or self._owed):
            return
        try:
            self._begin(progress, state, score if scored else None)
            if last:
                self._settle()
        except OSError as error:
            self._failed(error, f"after step {progress.step + 1}", final=last)

    def at_stop(self, progress: Progress, state: TrainState) -> None:
        """Save what the last finished step left, unless that was done; on disk on return."""
        with contextlib.suppress(OSError):  # where it still is so, the next save says it
            self.checkpoints.wait()
        if progress.step not in (0, *self.checkpoints.steps()):
            self._begin(progress, state, None)
            self.checkpoints.wait()

    def before_going_back(self) -> None:
        """Wait for the save under way; one that failed is said. Raises OSError as `after_step` does."""
        try:
            self._settle()
        except OSError as error:
            self._failed(error, "after the next step")

    def last_regular(self, before: int) -> int | None:
        """The newest checkpoint of at most step `before` at a multiple of checkpoint.every; None where there is none.

        One made at a signal is passed over, so that going back does not depend on when a run was stopped.
        """
        regular = [step for step in self.checkpoints.steps() if step % self.checkpoints.spec.every == 0]
        return max((step for step in regular if step <= before), default=None)

    def _begin(self, progress: Progress, state: TrainState, score: float | None) -> None:
        self._owed, self._begun = False, progress.step
        self.checkpoints.save(progress.step, state, progress._asdict(), score)

    def _settle(self) -> None:
        self.checkpoints.wait()
        self._ended()

    def _ended(self) -> None:
        """All that was begun is whole."""
        if not self._owed:
            self.failed = 0

    def _failed(self, error: OSError, again: str, *, final: bool = False) -> None:
        """Count a save that failed and say what it was, and when it is tried `again`."""
        self.failed, self._owed = self.failed + 1, True
        cause = f"checkpoint of step {self._begun}: {error.strerror or error}"
        patience = self.checkpoints.spec.patience
        if final or self.failed > patience:
            raise OSError(error.errno, f"{cause}; then start the same command again.") from error
        self.say(f"warning: {cause}; going on from memory, next try {again} "
                 f"({self.failed} of {patience} failed tries that checkpoint.patience allows).")

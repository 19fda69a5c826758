"""When a run saves, and what it does when it can't."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxrl.checkpointing.checkpoints import Checkpoints
from jaxrl.learning.state import TrainState


class Patience:
    """Tries in a row that a full disk may refuse (checkpoint.patience) while a run goes on from memory."""

    def __init__(self, allowed: int, say: Callable[[str], None]):
        self.allowed, self.say, self.failed = allowed, say, 0

    def succeeded(self) -> None:
        """The next failure is the first again."""
        self.failed = 0

    def refused(self, what: str, error: OSError, again: str, *, final: bool = False) -> None:
        """Say what could not be written, and when it is tried `again`; raises OSError where it was tried too often,
        or is not tried again (`final`)."""
        self.failed += 1
        cause = f"{what}: {error.strerror or error}"
        if final or self.failed > self.allowed:
            raise OSError(
                error.errno, f"{cause}; then start the same command again; what the last checkpoint has is whole."
            ) from error
        self.say(
            f"warning: {cause}; going on from memory, next try {again} "
            f"({self.failed} of {self.allowed} failed tries that checkpoint.patience allows)."
        )


class Saver:
    """Saves a run's state where that is due, beside the steps that follow.

    A save that fails is said when that is known, at the end of a step, and tried again with the state of then.
    """

    def __init__(self, checkpoints: Checkpoints, say: Callable[[str], None]):
        self.checkpoints = checkpoints
        self.patience = Patience(checkpoints.spec.patience, say)
        self._owed, self._begun = False, 0  # whether a save is still to be tried again; the step of the last one

    def after_step(
        self,
        step: int,
        note: Mapping[str, Any],
        state: TrainState,
        score: float | None,
        *,
        last: bool,
        written: bool = True,
    ) -> None:
        """Every so many steps, at the end, and where `score` (of an evaluation) may make this one of the best.

        written: whether the lines of all steps are; a checkpoint ahead of them could not be gone on from, so it waits
        for them. Waits for the save before where another is due, and for its own at the last step. Raises OSError once
        more than checkpoint.patience saves in a row have failed, and where that of the last step fails.
        """
        spec = self.checkpoints.spec
        scored = spec.best > 0 and score is not None
        due = last or scored or step % spec.every == 0
        try:
            if due:
                self._settle()
            elif self.checkpoints.poll():
                self._ended()
        except OSError as error:
            self._failed(error, f"after step {step}")
        self._owed |= due
        if not (self._owed and written):
            return
        try:
            self._begin(step, note, state, score if scored else None)
            if last:
                self._settle()
        except OSError as error:
            self._failed(error, f"after step {step + 1}", final=last)

    def at_stop(self, step: int, note: Mapping[str, Any], state: TrainState) -> None:
        """Save what the last finished step left, unless that was done; on disk on return."""
        try:
            self.checkpoints.wait()
        except OSError:  # where it still is so, the next save says it
            self._owed = True
        if step not in (0, *self.checkpoints.steps()):
            self._begin(step, note, state, None, due=self._owed)
            self.checkpoints.wait()

    def before_going_back(self) -> None:
        """Wait for the save under way; one that failed is said. Raises OSError as `after_step` does."""
        try:
            self._settle()
        except OSError as error:
            self._failed(error, "after the next step")

    def _begin(
        self, step: int, note: Mapping[str, Any], state: TrainState, score: float | None, *, due: bool = True
    ) -> None:
        self._owed, self._begun = False, step
        self.checkpoints.save(step, state, note, score, due=due)

    def _settle(self) -> None:
        self.checkpoints.wait()
        self._ended()

    def _ended(self) -> None:
        """All that was begun is whole."""
        if not self._owed:
            self.patience.succeeded()

    def _failed(self, error: OSError, again: str, *, final: bool = False) -> None:
        """Bear a save that failed, or raise."""
        self._owed = True
        self.patience.refused(f"checkpoint of step {self._begun}", error, again, final=final)

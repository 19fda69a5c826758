"""When a run saves, and what it does when it can't."""

from collections.abc import Callable

from jaxrl.learning.checkpoint import Checkpoints
from jaxrl.learning.state import TrainState
from jaxrl.running.progress import Progress


class Saver:
    """Saves a run's state where that is due. A save that fails is said, and tried again after the next step."""

    def __init__(self, checkpoints: Checkpoints, say: Callable[[str], None]):
        self.checkpoints, self.say = checkpoints, say
        self.failed = 0

    def after_step(self, progress: Progress, state: TrainState, score: float | None, *, last: bool) -> None:
        """Every so many steps, at the end, and where `score` (of an evaluation) may make this one of the best.

        Raises OSError once more than checkpoint.patience saves in a row have failed, and at the last step.
        """
        spec = self.checkpoints.spec
        scored = spec.best > 0 and score is not None
        if not (last or scored or self.failed or progress.step % spec.every == 0):
            return
        try:
            self.checkpoints.save(progress.step, state, progress._asdict(), score if scored else None)
            self.failed = 0
        except OSError as error:
            self.failed += 1
            cause = error.strerror or str(error)
            if last or self.failed > spec.patience:
                raise OSError(error.errno, f"{cause}; then start the same command again.") from error
            self.say(f"warning: {cause}; going on from memory, next try after step {progress.step + 1} "
                     f"({self.failed} of {spec.patience} failed tries that checkpoint.patience allows).")

    def at_stop(self, progress: Progress, state: TrainState) -> None:
        """Save what the last finished step left, unless that was done."""
        if progress.step not in (0, *self.checkpoints.steps()):
            self.checkpoints.save(progress.step, state, progress._asdict())

    def last_regular(self, before: int) -> int | None:
        """The newest checkpoint of at most step `before` at a multiple of checkpoint.every; None where there is none.

        One made at a signal is passed over, so that going back does not depend on when a run was stopped.
        """
        regular = [step for step in self.checkpoints.steps() if step % self.checkpoints.spec.every == 0]
        return max((step for step in regular if step <= before), default=None)

"""Which checkpoints are kept, and which one a run rolls back to."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class CheckpointSpec:
    """When checkpoints are made, and which are kept besides the newest.

    every: steps between two checkpoints. keep: how many of the newest of these are kept; a checkpoint made in between,
    at a signal or after an evaluation, does not count. keep_every: multiples of it are kept forever (0: none). best:
    how many with the highest score are kept. patience: failed writes in a row that a run survives.
    """

    every: int = 1
    keep: int = 2
    keep_every: int = 0
    best: int = 0
    patience: int = 0

    def __post_init__(self):
        for field, least in (("every", 1), ("keep", 1), ("keep_every", 0), ("best", 0), ("patience", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"checkpoint.{field}: expected {least} or more, got {getattr(self, field)}.")


DEFAULT_SPEC = CheckpointSpec()


class Retention:
    """Scores and due steps of the checkpoints in a folder, and the policy on them.

    A checkpoint is due if a run that is never stopped makes it too. Each stores the newest due step when it was made:
    its own if it is due, 0 if there was none.
    """

    def __init__(self, spec: CheckpointSpec):
        self.spec = spec
        self._scores: dict[int, float] = {}
        self._due: dict[int, int] = {}

    def load(self, notes: Mapping[int, Mapping[str, Any]]) -> None:
        """Take scores and due steps from the notes of all checkpoints, by step."""
        self._scores = {step: note["score"] for step, note in notes.items() if "score" in note}
        self._due = {step: note["due"] for step, note in notes.items() if "due" in note}

    def add(self, step: int, newest_due: int, score: float | None) -> None:
        """Add a checkpoint."""
        self._due[step] = newest_due
        if score is not None:
            self._scores[step] = score

    def remove(self, step: int) -> None:
        """Forget a checkpoint."""
        self._scores.pop(step, None)
        self._due.pop(step, None)

    def best(self, steps: Sequence[int]) -> list[tuple[int, float]]:
        """Step and score of all scored checkpoints among `steps`, the best first; of equal scores the later first."""
        scored = [(step, score) for step, score in self._scores.items() if step in steps]
        return sorted(scored, key=lambda pair: (pair[1], pair[0]), reverse=True)

    def last_due(self, steps: Sequence[int]) -> int | None:
        """The checkpoint among `steps` that a run rolls back to; None: to its beginning.

        It is the newest due one, so that the result does not depend on when a run was stopped. If no due one is left,
        it is the newest of all, or None if no checkpoint was due before that one.
        """
        due = [step for step in steps if self.is_due(step)]
        if due or not steps:
            return max(due, default=None)
        return None if self._due.get(max(steps)) == 0 else max(steps)

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is due. Old versions did not store it; for theirs, multiples of `every` are due."""
        return self._due[step] == step if step in self._due else step % self.spec.every == 0

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Which of these, by rising step, are kept (`orbax.checkpoint.checkpoint_managers.PreservationPolicy`).

        Orbax calls it when a write begins and deletes the others when it is complete; a failed write deletes none.
        """
        spec, steps = self.spec, [checkpoint.step for checkpoint in checkpoints]
        due = [step for step in steps if self.is_due(step)]
        regular = [step for step in due if step not in self._scores or step % spec.every == 0]
        best = [step for step, _ in self.best(steps)[: spec.best]]
        kept = {*steps[-1:], *due[-1:], *regular[-spec.keep :], *best}
        return [step in kept or bool(spec.keep_every and step % spec.keep_every == 0) for step in steps]

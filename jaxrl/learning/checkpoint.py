"""Checkpoints: the whole state and a JSON note, whole or not there at all, exact on any mesh."""

import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxrl.learning.state import TrainState


@dataclasses.dataclass(frozen=True)
class CheckpointSpec:
    """keep: how many of the newest stay. keep_every: multiples of it stay for good (0: none)."""

    keep: int = 2
    keep_every: int = 0

    def __post_init__(self):
        if self.keep < 1 or self.keep_every < 0:
            raise ValueError(
                f"checkpoints: expected keep >= 1 and keep_every >= 0, got keep={self.keep}, "
                f"keep_every={self.keep_every}"
            )


class Checkpoints:
    """The checkpoints of one run folder.

    A checkpoint is written into a temporary folder and renamed when complete, so a run killed at any moment
    leaves only whole ones behind: `steps` and `restore` never see a half-written one. Use as a context
    manager, or `close`.
    """

    def __init__(self, folder: str | os.PathLike, spec: CheckpointSpec = CheckpointSpec()):
        self.folder = Path(folder).absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=spec.keep,
            keep_period=spec.keep_every or None,
            enable_async_checkpointing=False,
            create=True,
            cleanup_tmp_directories=True,
        )
        with _explained(self.folder):
            self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder."""
        self._manager.close()

    def steps(self) -> list[int]:
        """Steps that can be restored, rising."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: TrainState, meta: dict[str, Any]) -> None:
        """Write `state` and `meta` (JSON) as checkpoint `step`, on disk on return; replaces one of that step.

        Raises OSError, in one sentence, when there is no room or no permission.
        """
        with _explained(self.folder):
            if step in self._manager.all_steps():
                self._manager.delete(step)
            note = {"meta": meta, "leaves": _leaves(state)}
            parts = ocp.args.Composite(state=ocp.args.StandardSave(state), note=ocp.args.JsonSave(note))
            self._manager.save(step, args=parts, force=True)
            self._manager.wait_until_finished()

    def restore(self, abstract: TrainState, step: int | None = None) -> tuple[TrainState, dict[str, Any]]:
        """State and note of checkpoint `step` (None: the newest), bit for bit, placed as `abstract` says.

        `abstract` comes from `abstract_state` of any mesh, not only the one that saved. Raises
        FileNotFoundError where there is no such checkpoint, ValueError where it is of another model or
        optimizer.
        """
        step = self._existing(step)
        note = self._note(step)
        wrong = sorted(set(map(tuple, note["leaves"])) ^ set(map(tuple, _leaves(abstract))))
        if wrong:
            raise ValueError(
                f"checkpoint {self.folder / str(step)} is of another model or optimizer: {len(wrong)} arrays differ, "
                f"the first is {' '.join(wrong[0])}; use the config it was made with, or another run folder"
            )
        parts = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        return self._manager.restore(step, args=parts).state, note["meta"]

    def meta(self, step: int | None = None) -> dict[str, Any]:
        """The note of checkpoint `step` (None: the newest), without its arrays."""
        return self._note(self._existing(step))["meta"]

    def _note(self, step: int) -> dict[str, Any]:
        return self._manager.restore(step, args=ocp.args.Composite(note=ocp.args.JsonRestore())).note

    def _existing(self, step: int | None) -> int:
        steps = self.steps()
        if not steps:
            raise FileNotFoundError(
                f"no checkpoint in {self.folder}; train first, or name another run folder"
            )
        if step is None:
            return steps[-1]
        if step not in steps:
            raise FileNotFoundError(f"no checkpoint of step {step} in {self.folder}; there are {steps}")
        return step


def _leaves(state: TrainState) -> list[list[str]]:
    """Name, shape and type of every array, to tell a foreign checkpoint before reading it."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return [[jax.tree_util.keystr(path), str(list(x.shape)), str(x.dtype)] for path, x in leaves]


class _explained:
    """Turns the operating system's refusals into one sentence that says what to do."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> bool:
        if not isinstance(error, Exception):
            return False
        number = getattr(error, "errno", None)
        text = str(error)
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text or "RESOURCE_EXHAUSTED" in text:
            raise OSError(
                errno.ENOSPC,
                f"no space left for a checkpoint in {self.folder}; the last whole one is untouched: free some space, "
                "or lower checkpoint.keep, and start the same command again",
            ) from error
        if (
            number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
            or "Permission denied" in text
        ):
            raise OSError(
                number or errno.EACCES,
                f"can't write checkpoints to {self.folder}: {error}; choose another --workdir or make this one "
                "writable",
            ) from error
        return False

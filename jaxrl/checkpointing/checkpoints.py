"""Checkpoints of the training state, on Orbax: atomic, exact on any mesh, written in the background."""

import contextlib
import errno
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxrl.checkpointing.array_layout import array_handler, restore_arguments, save_arguments
from jaxrl.checkpointing.disk_errors import explain_disk_errors
from jaxrl.checkpointing.retention import DEFAULT_SPEC, CheckpointSpec, Retention
from jaxrl.learning.state import TrainState
from jaxrl.runtime.multihost import (
    WriteBarrier,
    any_process,
    broadcast_from_primary,
    is_multiprocess,
    is_primary,
    run_on_primary,
    wait_until_visible,
)

_WRITE_TIMEOUT = 86_400  # seconds; Orbax's default of 20 minutes is too short for a slow disk
_DELETED = "deleted"  # a checkpoint is renamed into this folder before its first file is deleted
_INDEX_FILES = ("note/metadata", "state/_METADATA", "state/manifest.ocdbt")


class Checkpoints:
    """The checkpoints of one run folder. Use as a context manager, or call `close`.

    A checkpoint is written to a temporary folder and renamed when it is complete; before it is deleted it is renamed
    again. So a run that is killed at any moment leaves only complete checkpoints behind. The remains of interrupted
    writes and deletions are deleted when the folder is opened again.

    `save` starts a write in the background, one at a time. `poll` and `wait` return or raise its result; every method
    that reads or deletes checkpoints waits for it first, and raises as `wait`. In a run of several processes all must
    call these methods; they see the same checkpoints as the primary.
    """

    def __init__(self, folder: str | os.PathLike, spec: CheckpointSpec = DEFAULT_SPEC):
        self.folder, self.spec = Path(folder).absolute(), spec
        self._retention = Retention(spec)
        self._writing: int | None = None  # step of the write in progress
        self._deletion: threading.Thread | None = None
        self._barrier = WriteBarrier()
        with explain_disk_errors(self.folder):
            run_on_primary(self._delete_remains)
            self._manager = self._open_manager()
            self._wait_until_visible(broadcast_from_primary(self.steps()))
        self._load_notes()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error) -> None:
        if error[0] is None:
            self.close()
        elif not is_multiprocess():  # to close is to wait for the other processes, which may be elsewhere
            with contextlib.suppress(Exception):  # the first error is the one to raise
                self.close()

    def close(self) -> None:
        """Wait for the write in progress and release the folder. Raises as `wait`."""
        try:
            self.wait()
        finally:
            self._join_deletion()
            self._manager.close()

    def steps(self) -> list[int]:
        """The steps of all checkpoints, in increasing order."""
        self.wait()
        return sorted(self._manager.all_steps())

    def best(self) -> list[tuple[int, float]]:
        """Step and score of all scored checkpoints, the best first; of equal scores the later first."""
        return self._retention.best(self.steps())

    def last_due(self, before: int) -> int | None:
        """The checkpoint of at most step `before` that a run rolls back to, or None: see `Retention.last_due`."""
        return self._retention.last_due([step for step in self.steps() if step <= before])

    def meta(self, step: int | None = None) -> dict[str, Any]:
        """The `meta` of checkpoint `step` (None: the newest), without reading its arrays."""
        return self._read_note(self._existing(step))["meta"]

    def save(
        self, step: int, state: TrainState, meta: dict[str, Any], score: float | None = None, *, due: bool = True
    ) -> None:
        """Start to write `state` and `meta` (JSON) as checkpoint `step`, which replaces one of that step.

        Waits for the previous write. On return the state is copied: it may be donated or deleted. A frozen base is not
        saved. score: for `CheckpointSpec.best`. due: whether a run that is never stopped makes this checkpoint too.

        Raises OSError with one sentence if there is no space or no permission, and as `wait` for the previous write.
        Existing checkpoints are not affected, and the failed one leaves nothing behind.
        """
        self.wait()
        self._join_deletion()
        state = state._replace(base=None)
        newest_due = step if due else self.last_due(step) or 0
        note = {"meta": dict(meta), "leaves": _describe_leaves(state), "due": newest_due}
        note |= {} if score is None else {"score": score}
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        with explain_disk_errors(self.folder):
            run_on_primary(lambda: self._check_space(size))
            if step in self._manager.all_steps():
                self._manager.delete(step)
            self._retention.remove(step)
            self._retention.add(step, newest_due, score)
            self._start_write(step, state, note)
        self._writing = step

    def poll(self) -> bool:
        """Whether the last write has ended, without waiting. Raises as `wait` if it failed."""
        if self._writing is not None:
            writing = self._manager.is_saving_in_progress() and not self._barrier.broken
            if any_process(writing):
                return False
        self.wait()
        return True

    def wait(self) -> None:
        """Wait for the write in progress, if there is one.

        Raises OSError with one sentence, once, if it failed in any process. Existing checkpoints are not affected, and
        the failed one leaves nothing behind.
        """
        if self._writing is None:
            return
        step, self._writing, failure = self._writing, None, None
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            failure = self._barrier.cause(error)
        if not any_process(failure is not None):
            self._start_deletion()
            return
        self._recover(step)
        with contextlib.suppress(Exception):  # the first error is the one to raise
            self._wait_until_visible(broadcast_from_primary(self.steps()))
            self._load_notes()
        with explain_disk_errors(self.folder):
            raise failure or self._barrier.failure()

    def delete_after(self, step: int) -> None:
        """Delete the checkpoints of later steps, the newest first."""
        later = [existing for existing in reversed(self.steps()) if existing > step]
        self._join_deletion()
        with explain_disk_errors(self.folder):
            for existing in later:
                self._manager.delete(existing)
                self._retention.remove(existing)
        self._start_deletion()

    def restore(self, abstract: TrainState, step: int | None = None) -> tuple[TrainState, dict[str, Any]]:
        """State and meta of checkpoint `step` (None: the newest), bit for bit, sharded as `abstract`.

        abstract: from `abstract_state`, of any mesh; its base is ignored. Raises FileNotFoundError if there is no such
        checkpoint, ValueError if it belongs to another model or optimizer.
        """
        step, abstract = self._existing(step), abstract._replace(base=None)
        note = self._read_note(step)
        differing = sorted(set(map(tuple, note["leaves"])) ^ set(map(tuple, _describe_leaves(abstract))))
        if differing:
            raise ValueError(
                f"checkpoint {self.folder / str(step)} is of another model or optimizer: {len(differing)} arrays "
                f"differ, the first is {' '.join(differing[0])}; use its own config, or another run folder."
            )
        items = ocp.args.Composite(state=restore_arguments(_without_base(abstract)))
        return TrainState(**self._manager.restore(step, args=items).state), note["meta"]

    def _open_manager(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._retention,
            async_options=ocp.AsyncOptions(
                timeout_secs=_WRITE_TIMEOUT,
                barrier_sync_fn=self._barrier,
                create_directories_asynchronously=False,  # if it fails, other threads wait for it for minutes
            ),
            create=True,
            cleanup_tmp_directories=True,
            todelete_subdir=_DELETED,
        )
        handlers = {"state": array_handler(), "note": ocp.JsonCheckpointHandler()}
        return ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def _start_write(self, step: int, state: TrainState, note: dict[str, Any]) -> None:
        arrays = save_arguments(jax.tree.map(_copy_on_cpu, _without_base(state)))
        try:
            self._manager.save(step, args=ocp.args.Composite(state=arrays, note=ocp.args.JsonSave(note)), force=True)
        except Exception:
            self._recover(step)
            with contextlib.suppress(Exception):
                if not is_multiprocess():  # else it may have failed in this process alone
                    self._load_notes()
            raise

    def _recover(self, step: int) -> None:
        """Delete what is left of a failed write and open the folder anew.

        A checkpoint of this step may still exist: the new one, if only the deletion of others failed, or the old one
        that it was to replace, which is restored here. So the caller must read the notes again.
        """
        self._retention.remove(step)
        for partial in self.folder.glob(f"{step}.orbax-checkpoint-tmp*"):
            shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(Exception):  # the first error is the one to raise
            self._manager.close()
        self._barrier = WriteBarrier()
        replaced = self.folder / _DELETED / str(step)
        if is_primary() and is_complete(replaced) and not (self.folder / str(step)).exists():
            with contextlib.suppress(OSError):
                replaced.rename(self.folder / str(step))
        self._manager = self._open_manager()
        self._start_deletion()

    def _check_space(self, size: int) -> None:
        """Raise OSError if no folder can be made or less than `size` bytes are free.

        A checkpoint that cannot be completed would take the space that metrics need, and a process whose write failed
        alone would leave the others waiting.
        """
        probe = self.folder / ".probe"  # Orbax deletes its own temporary folders in the background
        probe.mkdir(exist_ok=True)
        probe.rmdir()
        if shutil.disk_usage(self.folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _wait_until_visible(self, steps: list[int]) -> None:
        """Wait until this host sees these checkpoints. Raises OSError as `wait_until_visible`."""

        def is_visible() -> bool:
            if self.steps() != steps:
                self._manager.reload()
            return self.steps() == steps

        wait_until_visible(is_visible, self.folder / str(steps[-1]) if steps else self.folder)

    def _delete_remains(self) -> None:
        """Delete what interrupted deletions left. Old versions did not rename first and left incomplete folders."""
        for path in self.folder.glob("*"):
            if path.name.isdigit() and not is_complete(path):
                shutil.rmtree(path)
        shutil.rmtree(self.folder / _DELETED, ignore_errors=True)

    def _start_deletion(self) -> None:
        """Delete the files of deleted checkpoints in the background."""
        if is_primary():
            self._deletion = threading.Thread(target=shutil.rmtree, args=(self.folder / _DELETED, True))
            self._deletion.start()

    def _join_deletion(self) -> None:
        """Wait for the deletion in the background, before other checkpoints are renamed into the same folder."""
        if self._deletion:
            self._deletion.join()
            self._deletion = None

    def _load_notes(self) -> None:
        self._retention.load({step: self._read_note(step) for step in self.steps()})

    def _read_note(self, step: int) -> dict[str, Any]:
        return self._manager.restore(step, args=ocp.args.Composite(note=ocp.args.JsonRestore())).note

    def _existing(self, step: int | None) -> int:
        steps = self.steps()
        if not steps:
            raise FileNotFoundError(f"no checkpoint in {self.folder}; train first, or name another run folder.")
        if step is None:
            return steps[-1]
        if step not in steps:
            raise FileNotFoundError(f"no checkpoint of step {step} in {self.folder}; there are {steps}.")
        return step


def is_complete(folder: Path) -> bool:
    """Whether a folder is a complete checkpoint: the index files of its note and its arrays exist."""
    return all((folder / name).is_file() for name in _INDEX_FILES)


def _copy_on_cpu(leaf: Any) -> Any:
    """A copy of an array on a CPU device; other arrays unchanged. Orbax writes arrays on a CPU from their own buffers,
    and copies all others to the host before `save` returns."""
    if isinstance(leaf, jax.Array) and next(iter(leaf.sharding.device_set)).platform == "cpu":
        return jax.device_put(leaf, leaf.sharding, may_alias=False)
    return leaf


def _without_base(state: TrainState) -> dict[str, Any]:
    return {name: part for name, part in state._asdict().items() if name != "base"}


def _describe_leaves(state: TrainState) -> list[list[str]]:
    """Path, shape and dtype of every array, so that the checkpoint of another model is recognized before it is read."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return [[jax.tree_util.keystr(path), str(list(x.shape)), str(x.dtype)] for path, x in leaves]

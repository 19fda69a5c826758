"""Checkpoints: the state and a JSON note, whole or not there, exact on any mesh, written while the run goes on."""

import contextlib
import dataclasses
import errno
import os
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxrl.checkpointing.array_layout import array_handler, restore_arguments, save_arguments
from jaxrl.learning.state import TrainState
from jaxrl.runtime.multihost import Meeting, any_process, broadcast_from_primary, is_primary, until_seen

_LONGEST_WRITE = 86_400  # seconds; Orbax needs some limit, and 20 minutes are too few for a slow disk
_DELETED = "deleted"  # a checkpoint is renamed into this folder before the first of its files goes
_TOLD_CODE = re.compile(r"os_error_code='(\d+)'")  # in the text of TensorStore's errors, which are ValueErrors
_INDEX = ("note/metadata", "state/_METADATA", "state/manifest.ocdbt")  # files that lead to all others


@dataclasses.dataclass(frozen=True)
class CheckpointSpec:
    """Which checkpoints are made, and which of them stay; the newest always does.

    every: steps between two. keep: how many of the newest of these stay, so that one made in between (at a signal, or
    after an evaluation) displaces none of them. keep_every: multiples of it stay for good (0: none). best: so many with
    the highest score stay. patience: how many saves in a row may fail before the run ends.
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


class Checkpoints:
    """The checkpoints of one run folder.

    A checkpoint is written into a temporary folder and renamed when complete, and renamed again before it is deleted,
    so a run killed at any moment leaves only whole ones behind: `steps` and `restore` never see a half-written or
    half-deleted one, and what is left of it goes when the folder is opened again. `save` starts a write that goes
    on in the background, one at a time; `poll` and `wait` tell how it ended, and all that reads or deletes
    checkpoints waits for it first and may raise what `wait` raises. Of several processes all begin with the steps that
    the leading one sees. Use as a context manager, or `close`.
    """

    def __init__(self, folder: str | os.PathLike, spec: CheckpointSpec = CheckpointSpec()):
        self.folder, self.spec = Path(folder).absolute(), spec
        self._writing: int | None = None
        self._clearing: threading.Thread | None = None
        self._meeting = Meeting()
        with _explained(self.folder):
            _lead(self._clear)
            self._manager = self._open()
            self._see(broadcast_from_primary(self.steps()))
        self._read_notes()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error) -> None:
        if error[0] is None:
            self.close()
        elif jax.process_count() == 1:  # else the others may be elsewhere, and to close is to wait for them
            with contextlib.suppress(Exception):  # the first error is the one to tell
                self.close()

    def close(self) -> None:
        """Let go of the folder, once the write under way has ended; raises as `wait` does."""
        try:
            self.wait()
        finally:
            self._end_clearing()
            self._manager.close()

    def steps(self) -> list[int]:
        """Steps that can be restored, rising."""
        self.wait()
        return sorted(self._manager.all_steps())

    def best(self) -> list[tuple[int, float]]:
        """Step and score of those that have one and are there, the best first; of equals, the later."""
        there = set(self.steps())
        scored = [(step, score) for step, score in self._scores.items() if step in there]
        return sorted(scored, key=lambda pair: (pair[1], pair[0]), reverse=True)

    def last_due(self, before: int) -> int | None:
        """The checkpoint of at most step `before` that a run goes back to; None: to its beginning.

        The newest that was due. One that was not is passed over, also where no other was made yet, so that going back
        does not depend on when a run was stopped; it is taken only where the one that was due is gone.
        """
        steps = [step for step in self.steps() if step <= before]
        due = [step for step in steps if self._is_due(step)]
        if due or not steps:
            return max(due, default=None)
        return None if self._due.get(steps[-1]) == 0 else steps[-1]

    def save(
        self, step: int, state: TrainState, meta: dict[str, Any], score: float | None = None, *, due: bool = True
    ) -> None:
        """Begin to write `state` and `meta` (JSON) as checkpoint `step`; replaces one of that step.

        due: whether a run that is never stopped makes one here, too; see `last_due`.

        On return all is copied: the state may be changed, donated or deleted. Waits for the write before.
        A frozen base is left out: it is where the run took it from.

        Raises OSError, in one sentence, when there is no room or no permission, or as `wait` for the write before;
        what was there stays, what was half written is taken away.
        """
        self.wait()
        self._end_clearing()
        state = state._replace(base=None)
        back = step if due else self.last_due(step) or 0
        note = {"meta": dict(meta), "leaves": _leaves(state), "due": back}
        note |= {} if score is None else {"score": score}
        with _explained(self.folder):
            self._ask(sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
            if step in self._manager.all_steps():
                self._manager.delete(step)
            if score is not None:
                self._scores[step] = score
            self._due[step] = back
            arrays = save_arguments(jax.tree.map(_apart, _kept(state)))
            try:
                self._manager.save(
                    step, args=ocp.args.Composite(state=arrays, note=ocp.args.JsonSave(note)), force=True
                )
            except Exception:
                self._give_up(step)
                with contextlib.suppress(Exception):
                    if jax.process_count() == 1:  # of several it may be this one alone that fails here
                        self._read_notes()
                raise
        self._writing = step

    def poll(self) -> bool:
        """Whether no write is under way any more, without waiting; raises as `wait` where the last one failed."""
        if self._writing is not None:
            writing = self._manager.is_saving_in_progress() and not self._meeting.parted
            if any_process(writing):
                return False
        self.wait()
        return True

    def wait(self) -> None:
        """Wait until the write under way has ended, if there is one.

        Raises OSError, in one sentence and once, where it failed; what was there stays, what was half written is
        taken away.
        """
        if self._writing is None:
            return
        step, self._writing, failure = self._writing, None, None
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            failure = self._meeting.cause(error)
        if not any_process(failure is not None):
            self._begin_clearing()
            return
        self._give_up(step)
        with contextlib.suppress(Exception):  # the first error is the one to tell
            self._see(broadcast_from_primary(self.steps()))
            self._read_notes()
        with _explained(self.folder):
            raise failure or self._meeting.failure()

    def delete_after(self, step: int) -> None:
        """Remove the checkpoints of later steps, the newest first."""
        later = [there for there in reversed(self.steps()) if there > step]
        self._end_clearing()
        with _explained(self.folder):
            for there in later:
                self._manager.delete(there)
                self._forget(there)
        self._begin_clearing()

    def restore(self, abstract: TrainState, step: int | None = None) -> tuple[TrainState, dict[str, Any]]:
        """State and note of checkpoint `step` (None: the newest), bit for bit, placed as `abstract` says.

        `abstract` comes from `abstract_state` of any mesh, not only the one that saved; its base is not in it. Raises
        FileNotFoundError where there is no such checkpoint, ValueError where it is of another model or
        optimizer.
        """
        step, abstract = self._existing(step), abstract._replace(base=None)
        note = self._note(step)
        wrong = sorted(set(map(tuple, note["leaves"])) ^ set(map(tuple, _leaves(abstract))))
        if wrong:
            raise ValueError(
                f"checkpoint {self.folder / str(step)} is of another model or optimizer: {len(wrong)} arrays differ, "
                f"the first is {' '.join(wrong[0])}; use the config it was made with, or another run folder"
            )
        parts = ocp.args.Composite(state=restore_arguments(_kept(abstract)))
        return TrainState(**self._manager.restore(step, args=parts).state), note["meta"]

    def meta(self, step: int | None = None) -> dict[str, Any]:
        """The note of checkpoint `step` (None: the newest), without its arrays."""
        return self._note(self._existing(step))["meta"]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Which of these, by rising step, stay: the policy that Orbax asks when a write begins.

        The others are deleted when that write is whole, so that one that fails costs none.
        """
        spec, steps = self.spec, [checkpoint.step for checkpoint in checkpoints]
        due = [step for step in steps if self._is_due(step)]
        regular = [step for step in due if step not in self._scores or step % spec.every == 0]
        best = [step for step, _ in self.best()[: spec.best]]
        kept = {*steps[-1:], *due[-1:], *regular[-spec.keep :], *best}
        return [step in kept or bool(spec.keep_every and step % spec.keep_every == 0) for step in steps]

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self,
            async_options=ocp.AsyncOptions(
                timeout_secs=_LONGEST_WRITE,
                barrier_sync_fn=self._meeting,
                create_directories_asynchronously=False,  # where that fails, threads would wait for it for minutes
            ),
            create=True,
            cleanup_tmp_directories=True,
            todelete_subdir=_DELETED,
        )
        handlers = {"state": array_handler(), "note": ocp.JsonCheckpointHandler()}
        return ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def _see(self, steps: list[int]) -> None:
        """Wait until there are these checkpoints also as this host sees it; raises OSError as `until_seen`."""

        def seen() -> bool:
            if self.steps() != steps:
                self._manager.reload()
            return self.steps() == steps

        until_seen(seen, self.folder / str(steps[-1]) if steps else self.folder)

    def _ask(self, needed: int) -> None:
        """Raises OSError, in every process, where the leading one can't make a folder or finds no room.

        Asked beforehand, so that a checkpoint that can't be whole does not take the room that metrics need, and so that
        no process waits for another that failed alone.
        """

        def ask() -> None:
            probe = self.folder / ".probe"  # Orbax takes its own temporary names away in the background
            probe.mkdir(exist_ok=True)
            probe.rmdir()
            if shutil.disk_usage(self.folder).free < needed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        _lead(ask)

    def _clear(self) -> None:
        """Take away what deletions left that a kill cut short, also of versions that did not rename first."""
        for path in self.folder.glob("*"):
            if path.name.isdigit() and not is_whole(path):
                shutil.rmtree(path)
        shutil.rmtree(self.folder / _DELETED, ignore_errors=True)  # what can't be taken away is in nobody's way

    def _begin_clearing(self) -> None:
        """Take away the files of deleted checkpoints while the run goes on."""
        if is_primary():
            self._clearing = threading.Thread(target=shutil.rmtree, args=(self.folder / _DELETED, True))
            self._clearing.start()

    def _end_clearing(self) -> None:
        """Wait until it is done, before others are renamed to the same place."""
        if self._clearing:
            self._clearing.join()
            self._clearing = None

    def _read_notes(self) -> None:
        """Take from the checkpoints that are there what they say of themselves."""
        notes = {step: self._note(step) for step in self.steps()}
        self._scores = {step: note["score"] for step, note in notes.items() if "score" in note}
        # The newest that was due when each was made, itself perhaps; 0: none.
        self._due = {step: note["due"] for step, note in notes.items() if "due" in note}

    def _give_up(self, step: int) -> None:
        """Take away what is left of a write that failed, and see anew what is there.

        The checkpoint itself may be there: whole, where only the deletion of older ones failed; or the one that it was
        to replace, which is put back. So its note is to be read again.
        """
        self._forget(step)
        for half in self.folder.glob(f"{step}.orbax-checkpoint-tmp*"):
            shutil.rmtree(half, ignore_errors=True)
        with contextlib.suppress(Exception):  # the first error is the one to tell
            self._manager.close()
        self._meeting = Meeting()
        replaced = self.folder / _DELETED / str(step)
        if is_primary() and is_whole(replaced) and not (self.folder / str(step)).exists():
            with contextlib.suppress(OSError):
                replaced.rename(self.folder / str(step))
        self._manager = self._open()
        self._begin_clearing()

    def _forget(self, step: int) -> None:
        self._scores.pop(step, None)
        self._due.pop(step, None)

    def _is_due(self, step: int) -> bool:
        """Whether a checkpoint was due; one of a version that did not note it was, if it stands at a multiple."""
        return self._due[step] == step if step in self._due else step % self.spec.every == 0

    def _note(self, step: int) -> dict[str, Any]:
        return self._manager.restore(step, args=ocp.args.Composite(note=ocp.args.JsonRestore())).note

    def _existing(self, step: int | None) -> int:
        steps = self.steps()
        if not steps:
            raise FileNotFoundError(f"no checkpoint in {self.folder}; train first, or name another run folder")
        if step is None:
            return steps[-1]
        if step not in steps:
            raise FileNotFoundError(f"no checkpoint of step {step} in {self.folder}; there are {steps}")
        return step


def is_whole(folder: Path) -> bool:
    """Whether a folder named by a step is a checkpoint, not what is left of one: the files that lead to its note and
    its arrays are there."""
    return all((folder / name).is_file() for name in _INDEX)


def _lead(action: Callable[[], None]) -> None:
    """Do it in the leading process; the others wait for it. All raise the OSError that it raises."""
    refusal = None
    if is_primary():
        try:
            action()
        except OSError as error:
            refusal = error.errno, error.strerror
    refusal = broadcast_from_primary(refusal)
    if refusal:
        raise OSError(*refusal)


def _apart(leaf: Any) -> Any:
    """The leaf where nothing else reaches it while it is written.

    From other memory Orbax copies an array to the host before `save` returns; what is on the host it writes from where
    it is.
    """
    if isinstance(leaf, jax.Array) and next(iter(leaf.sharding.device_set)).platform == "cpu":
        return jax.device_put(leaf, leaf.sharding, may_alias=False)
    return leaf


def _kept(state: TrainState) -> dict[str, Any]:
    """All but the base."""
    return {name: part for name, part in state._asdict().items() if name != "base"}


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
        number, text = getattr(error, "errno", None), str(error)
        if told := _TOLD_CODE.search(text):
            number = int(told.group(1))
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text:
            raise OSError(
                errno.ENOSPC,
                f"no space left for a checkpoint in {self.folder}; the last whole one is untouched: free some space",
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
        if told:
            raise OSError(
                number, f"can't write a checkpoint to {self.folder}: {os.strerror(number)}; see to the disk"
            ) from error
        return False

"""A checkpoint is complete or does not exist, and is restored bit for bit on any mesh."""

import ctypes
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tensorstore as ts

from jaxrl.checkpointing.checkpoints import Checkpoints, CheckpointSpec
from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.learning.optimizer import OptimizerSpec, make_optimizer
from jaxrl.learning.state import TrainState, abstract_state, init_params, init_state
from models.config import Qwen2Config
from models.qwen2 import Qwen2

ROOT = Path(__file__).parents[2]
# Two checkpoints, then a deletion that SIGKILL interrupts after its first file.
KILLED_IN_A_DELETION = """
import os, signal, sys
import numpy as np
from jaxrl.checkpointing.checkpoints import Checkpoints, CheckpointSpec
from jaxrl.learning.state import TrainState

def state(step):
    return TrainState(np.full((), step, np.int32), {"w": np.full(8, step, np.float32)}, {})

def kill(path, *args, **kwargs):
    unlink(path, *args, **kwargs)
    if os.path.basename(path) == "metadata":  # of the note
        os.kill(os.getpid(), signal.SIGKILL)

unlink, (folder, how) = os.unlink, sys.argv[1:]
checkpoints = Checkpoints(folder, CheckpointSpec(keep=2 if how == "delete_after" else 1))
checkpoints.save(1, state(1), {})
checkpoints.wait()
os.unlink = kill
checkpoints.save(2, state(2), {})
checkpoints.wait()
if how == "delete_after":
    checkpoints.delete_after(1)
checkpoints.close()
"""
MODEL = Qwen2(Qwen2Config(32, 16, 32, 2, 4, 2, 4, tie_word_embeddings=True))
OPTIMIZER = make_optimizer(OptimizerSpec(weight_decay=0.01))


def state_on(spec, seed=0):
    mesh = make_mesh(spec)
    return init_state(MODEL, OPTIMIZER, mesh, init_params(MODEL, mesh, jax.random.key(seed))), mesh


@pytest.fixture
def disk(monkeypatch):
    """A disk that blocks until `go` is set; with an `error`, the final rename of a checkpoint raises it."""
    rename, opened = os.rename, ts.open
    disk = SimpleNamespace(go=threading.Event(), reached=threading.Event(), error=None)

    def open_late(*args, **kwargs):
        disk.reached.set()
        if not disk.go.wait(60):
            disk.go.set()
            raise TimeoutError("the test never sets disk.go")
        return opened(*args, **kwargs)

    def rename_or_fail(*args):
        if disk.error:
            raise disk.error
        return rename(*args)

    monkeypatch.setattr(ts, "open", open_late)
    monkeypatch.setattr(os, "rename", rename_or_fail)
    yield disk
    disk.go.set()


def join_write():
    for thread in threading.enumerate():
        if thread.name == "save_finalize":
            threading.Thread.join(thread)  # its own `join` raises the error of the write


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for x, y in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_exact_on_another_mesh(tmp_path):
    state, _ = state_on(MeshSpec(data=4))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(7, state, {"stage": 1, "name": "first"})
    abstract = abstract_state(MODEL, OPTIMIZER, make_mesh(MeshSpec(data=2, fsdp=2)))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        restored, meta = checkpoints.restore(abstract)
    assert_same(state, restored)
    assert meta == {"stage": 1, "name": "first"}
    kernel = restored.params["layers"]["mlp"]["gate"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (2, 8, 32)


def test_an_incomplete_checkpoint_is_never_restored(tmp_path):
    """A kill before the rename leaves a temporary folder, which is ignored."""
    state, mesh = state_on(MeshSpec())
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
    partial_folder = tmp_path / "2.orbax-checkpoint-tmp-0"
    (partial_folder / "state").mkdir(parents=True)
    (partial_folder / "state" / "manifest.ocdbt").write_bytes(b"partial")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        assert_same(checkpoints.restore(abstract_state(MODEL, OPTIMIZER, mesh))[0], state)


@pytest.mark.parametrize(("how", "left"), [("displaced", 2), ("delete_after", 1)])
def test_a_partly_deleted_checkpoint_is_never_restored(tmp_path, how, left):
    """A kill during a deletion: complete checkpoints are found, and the remains are deleted."""
    command = [sys.executable, "-W", "ignore", "-c", KILLED_IN_A_DELETION, tmp_path, how]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == [str(left)]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [left]
        assert [path.name for path in tmp_path.iterdir()] == [str(left)]
        expected = TrainState(np.full((), left, np.int32), {"w": np.full(8, left, np.float32)}, {})
        assert_same(checkpoints.restore(expected)[0], expected)


@pytest.mark.parametrize("gone", ["note", "note/metadata", "state", "state/manifest.ocdbt"])
def test_a_folder_that_has_lost_files_is_no_checkpoint(tmp_path, gone):
    """Old versions deleted in place, and left such folders after a kill."""
    state, mesh = state_on(MeshSpec())
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.save(2, state, {})
    lost = tmp_path / "2" / gone
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        assert_same(checkpoints.restore(abstract_state(MODEL, OPTIMIZER, mesh))[0], state)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_deleted_checkpoints_leave_no_files(tmp_path):
    """Also if the same step is deleted repeatedly."""
    state, _ = state_on(MeshSpec())
    with Checkpoints(tmp_path, CheckpointSpec(keep=1)) as checkpoints:
        for _ in range(3):
            checkpoints.save(1, state, {})
            checkpoints.save(2, state, {})
            checkpoints.delete_after(0)
    assert list(tmp_path.iterdir()) == []


def test_keeps_the_newest_and_every_nth(tmp_path):
    state, _ = state_on(MeshSpec())
    with Checkpoints(tmp_path, CheckpointSpec(keep=2, keep_every=4)) as checkpoints:
        for step in (3, 4, 5, 6, 7):
            checkpoints.save(step, state, {"step": step})
        assert checkpoints.steps() == [4, 6, 7]
        assert checkpoints.meta(4) == {"step": 4}


def test_an_extra_checkpoint_displaces_no_regular_one(tmp_path):
    """A checkpoint at a signal or after an evaluation is kept until the next one is complete."""
    state, _ = state_on(MeshSpec())
    with Checkpoints(tmp_path, CheckpointSpec(every=4, keep=2)) as checkpoints:
        kept = []
        for step, score, due in ((4, None, True), (8, None, True), (9, 0.5, True), (11, None, False), (12, 0.4, True)):
            checkpoints.save(step, state, {}, score, due=due)
            kept.append(checkpoints.steps())
    assert kept == [[4], [4, 8], [4, 8, 9], [4, 8, 9, 11], [8, 12]]


def note_of(folder, step):
    return folder / str(step) / "note" / "metadata"


@pytest.mark.parametrize(
    ("saved", "every", "before", "back"),
    [
        ({20: True, 40: True, 45: False}, 30, 46, 40),
        ({20: True, 40: True, 45: False}, 30, 39, 20),
        ({21: True, 25: False}, 20, 29, 21),
        ({13: False, 15: False}, 20, 19, None),
        ({}, 20, 19, None),
        ({40: None, 45: None}, 20, 46, 40),
        ({40: None, 45: None}, 30, 46, 45),
        ({40: None, 45: False}, 30, 46, 45),
    ],
)
def test_a_run_rolls_back_to_the_newest_due_checkpoint(tmp_path, saved, every, before, back):
    """For any later value of `every`. Old versions did not note it (None): then multiples of `every` are due."""
    state, _ = state_on(MeshSpec())
    for step, due in saved.items():
        with Checkpoints(tmp_path, CheckpointSpec(every, keep=9)) as checkpoints:
            checkpoints.save(step, state, {}, due=due is not False)
        if due is None:
            note = json.loads(note_of(tmp_path, step).read_text())
            note_of(tmp_path, step).write_text(json.dumps({name: note[name] for name in note if name != "due"}))
    with Checkpoints(tmp_path, CheckpointSpec(every)) as checkpoints:
        assert checkpoints.last_due(before) == back


def test_the_newest_due_checkpoint_is_kept_and_without_it_a_run_rolls_back_to_the_newest(tmp_path):
    state, _ = state_on(MeshSpec())
    with Checkpoints(tmp_path, CheckpointSpec(every=20, keep=1, best=1)) as checkpoints:
        for step, score, due in ((10, 0.9, True), (15, 0.5, True), (17, None, False)):
            checkpoints.save(step, state, {}, score, due=due)
        assert (checkpoints.steps(), checkpoints.last_due(18)) == ([10, 15, 17], 15)
    for step in (10, 15):
        shutil.rmtree(tmp_path / str(step))
    with Checkpoints(tmp_path, CheckpointSpec(every=20)) as checkpoints:
        assert checkpoints.last_due(18) == 17


def test_the_best_are_kept_when_the_folder_is_opened_again(tmp_path):
    state, _ = state_on(MeshSpec())
    for step, score in ((1, 0.3), (2, 0.7), (3, None), (4, 0.5), (5, 0.7), (6, 0.1)):
        with Checkpoints(tmp_path, CheckpointSpec(keep=1, best=2)) as checkpoints:
            checkpoints.save(step, state, {}, score)
            best, steps = checkpoints.best(), checkpoints.steps()
    assert steps == [2, 5, 6]
    assert best == [(5, 0.7), (2, 0.7), (6, 0.1)]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.delete_after(2)
        assert (checkpoints.steps(), checkpoints.best()) == ([2], [(2, 0.7)])


@pytest.mark.parametrize("after", ["donated", "overwritten"])
def test_the_state_is_written_as_it_was_when_save_was_called(tmp_path, disk, after):
    """The next update overwrites the state's memory before any byte is on disk."""
    state, mesh = state_on(MeshSpec(data=2, fsdp=2))
    then = jax.tree.map(np.array, jax.device_get(state))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        if after == "donated":
            forget = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 0 - 1, tree), donate_argnums=0)
            jax.block_until_ready(forget(state))
        else:
            for shard in (shard for leaf in jax.tree.leaves(state) for shard in leaf.addressable_shards):
                ctypes.memset(shard.data.unsafe_buffer_pointer(), 0x7F, shard.data.nbytes)
        disk.go.set()
        assert_same(checkpoints.restore(abstract_state(MODEL, OPTIMIZER, mesh))[0], then)


def test_a_run_continues_during_a_write_and_sees_only_complete_checkpoints(tmp_path, disk):
    state, _ = state_on(MeshSpec())
    with Checkpoints(tmp_path, CheckpointSpec(keep=1)) as checkpoints:
        disk.go.set()
        checkpoints.save(1, state, {})
        assert checkpoints.steps() == [1]
        disk.go.clear()
        checkpoints.save(2, state, {"late": True})
        assert disk.reached.wait(60) and not checkpoints.poll()
        assert [path.name for path in tmp_path.iterdir() if path.name.isdigit()] == ["1"]
        disk.go.set()
        join_write()
        assert checkpoints.poll()
        assert (checkpoints.steps(), checkpoints.meta()) == ([2], {"late": True})


@pytest.mark.parametrize("learned", ["poll", "wait", "save", "steps", "close"])
def test_a_failed_write_is_raised_once_leaves_nothing_and_can_be_repeated(tmp_path, disk, learned):
    """The disk is full before the rename. The checkpoint that it would have displaced is kept."""
    state, mesh = state_on(MeshSpec())
    disk.go.set()
    checkpoints = Checkpoints(tmp_path, CheckpointSpec(keep=1, best=1))
    checkpoints.save(1, state, {})
    checkpoints.wait()
    disk.error = OSError(28, "No space left on device")
    checkpoints.save(2, state, {}, 0.5)
    join_write()
    call = partial(checkpoints.save, 3, state, {}) if learned == "save" else getattr(checkpoints, learned)
    with pytest.raises(OSError, match="no space left in"):
        call()
    disk.error = None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1"]
    if learned == "close":
        checkpoints = Checkpoints(tmp_path, CheckpointSpec(keep=1))
    with checkpoints:
        assert (checkpoints.steps(), checkpoints.best()) == ([1], [])
        checkpoints.save(2, state, {"again": True})
        restored, meta = checkpoints.restore(abstract_state(MODEL, OPTIMIZER, mesh))
        assert (meta, checkpoints.steps(), checkpoints.best()) == ({"again": True}, [2], [])
    assert_same(restored, state)


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (errno.EFBIG, "OUT_OF_RANGE", "writing to .* failed .File too large"),
        (errno.EIO, "DATA_LOSS", "writing to .* failed .Input/output error"),
        (errno.ESTALE, "UNKNOWN", "writing to .* failed .Stale file handle"),
        (errno.EROFS, "PERMISSION_DENIED", "is not writable .* choose another --workdir"),
        (errno.EDQUOT, "UNKNOWN", "no space left in"),
    ],
)
def test_a_disk_error_of_tensorstore_is_an_os_error(tmp_path, disk, code, kind, message):
    """So that a run survives any failure of the disk."""
    state, _ = state_on(MeshSpec())
    disk.go.set()
    with Checkpoints(tmp_path) as checkpoints:
        disk.error = ValueError(
            f'{kind}: Error writing "params.w/0" in OCDBT database: Failed to write 392040 bytes '
            f"to file 11: {os.strerror(code)} [os_error_code='{code}']"
        )
        checkpoints.save(1, state, {})
        with pytest.raises(OSError, match=message):
            checkpoints.wait()
        disk.error = None
        checkpoints.save(1, state, {})
        assert checkpoints.steps() == [1]


def test_an_error_of_the_run_is_not_hidden_by_a_failed_write(tmp_path, disk):
    state, _ = state_on(MeshSpec())
    disk.go.set()
    disk.error = OSError(28, "No space left on device")
    with pytest.raises(ZeroDivisionError), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_writable_raises_at_once(tmp_path, monkeypatch):
    """The primary checks it for all processes: one that failed alone would leave the others waiting."""
    state, _ = state_on(MeshSpec())
    with Checkpoints(tmp_path) as checkpoints:

        def refuse(path, *args, **kwargs):
            raise PermissionError(errno.EACCES, "Permission denied")

        with monkeypatch.context() as patch:
            patch.setattr(type(tmp_path), "mkdir", refuse)
            with pytest.raises(OSError, match="is not writable"):
                checkpoints.save(1, state, {})
        assert checkpoints.poll() and list(tmp_path.iterdir()) == []
        (tmp_path / ".probe").mkdir()  # left by a kill
        checkpoints.save(1, state, {})
        assert checkpoints.steps() == [1] and [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_checkpoint_that_does_not_fit_is_not_started(tmp_path, monkeypatch):
    state, _ = state_on(MeshSpec())
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    with Checkpoints(tmp_path) as checkpoints:
        for free, fits in ((needed - 1, False), (needed, True)):
            monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: SimpleNamespace(free=free))
            if fits:
                checkpoints.save(1, state, {})
                checkpoints.wait()
            else:
                with pytest.raises(OSError, match="no space left in"):
                    checkpoints.save(1, state, {}, 0.5)
            assert len(list(tmp_path.iterdir())) == fits
        assert checkpoints.best() == []


def test_a_checkpoint_is_complete_even_if_the_old_one_cannot_be_deleted(tmp_path):
    """The failed deletion is raised."""
    state, _ = state_on(MeshSpec())
    with Checkpoints(tmp_path, CheckpointSpec(every=5, keep=1, best=1)) as checkpoints:
        checkpoints.save(3, state, {}, 0.1)
        checkpoints.wait()
        (tmp_path / "deleted").write_text("in the way")
        checkpoints.save(7, state, {}, 0.9)
        with pytest.raises(OSError, match="is not writable"):
            checkpoints.wait()
        now = checkpoints.steps(), checkpoints.best(), checkpoints.last_due(7)
        assert now == ([3, 7], [(7, 0.9), (3, 0.1)], 7)
    with Checkpoints(tmp_path, CheckpointSpec(every=5, keep=1, best=1)) as again:
        assert (again.steps(), again.best(), again.last_due(7)) == now


def test_a_checkpoint_that_could_not_be_replaced_is_put_back(tmp_path, disk):
    first, mesh = state_on(MeshSpec())
    second, _ = state_on(MeshSpec(), seed=1)
    rename, refuse = os.rename, []

    def rename_or_fail(source, target):
        if "orbax-checkpoint-tmp" in str(source) and refuse:
            raise OSError(28, "No space left on device")
        return rename(source, target)

    os.rename = rename_or_fail
    disk.go.set()
    with Checkpoints(tmp_path, CheckpointSpec(best=1)) as checkpoints:
        checkpoints.save(1, first, {"first": True}, 0.3)
        checkpoints.wait()
        refuse.append(True)
        checkpoints.save(1, second, {}, 0.6)
        with pytest.raises(OSError, match="no space left in"):
            checkpoints.wait()
        assert checkpoints.best() == [(1, 0.3)]
        restored, meta = checkpoints.restore(abstract_state(MODEL, OPTIMIZER, mesh))
    assert meta == {"first": True}
    assert_same(restored, first)


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path):
    first, mesh = state_on(MeshSpec())
    second, _ = state_on(MeshSpec(), seed=1)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, first, {})
        checkpoints.save(1, second, {})
        assert_same(checkpoints.restore(abstract_state(MODEL, OPTIMIZER, mesh))[0], second)


def test_errors_say_what_to_do(tmp_path):
    state, mesh = state_on(MeshSpec())
    abstract = abstract_state(MODEL, OPTIMIZER, mesh)
    with Checkpoints(tmp_path / "a") as checkpoints:
        with pytest.raises(FileNotFoundError, match="no checkpoint in"):
            checkpoints.restore(abstract)
        checkpoints.save(2, state, {})
        with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 5 .* there are \[2\]"):
            checkpoints.restore(abstract, 5)
        other = Qwen2(Qwen2Config(32, 24, 32, 2, 4, 2, 4, tie_word_embeddings=True))
        with pytest.raises(ValueError, match="another model or optimizer"):
            checkpoints.restore(abstract_state(other, OPTIMIZER, mesh))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="choose another --workdir"):
        Checkpoints(tmp_path / "file" / "checkpoints")


def test_no_space_is_one_sentence(tmp_path, monkeypatch):
    state, _ = state_on(MeshSpec())
    with Checkpoints(tmp_path) as checkpoints:

        def full(*args, **kwargs):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(checkpoints._manager, "save", full)
        with pytest.raises(OSError, match=r"no space left in .* free some space"):
            checkpoints.save(1, state, {})

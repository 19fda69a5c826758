"""A checkpoint is whole or not there, and comes back bit for bit on any mesh."""

import os
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxrl.learning.checkpoint import Checkpoints, CheckpointSpec
from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.learning.optimizer import OptimizerSpec, make_optimizer
from jaxrl.learning.state import abstract_state, init_params, init_state
from models.config import Qwen2Config
from models.qwen2 import Qwen2

MODEL = Qwen2(Qwen2Config(32, 16, 32, 2, 4, 2, 4, tie_word_embeddings=True))
OPTIMIZER = make_optimizer(OptimizerSpec(weight_decay=0.01))


def state_on(spec, seed=0):
    mesh = make_mesh(spec)
    return init_state(MODEL, OPTIMIZER, mesh, init_params(MODEL, mesh, jax.random.key(seed))), mesh


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


def test_half_written_is_never_picked_up(tmp_path):
    """A kill between the first byte and the rename leaves a temporary folder: older steps stay the newest."""
    state, mesh = state_on(MeshSpec())
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
    half = tmp_path / "2.orbax-checkpoint-tmp-0"
    (half / "state").mkdir(parents=True)
    (half / "state" / "manifest.ocdbt").write_bytes(b"half")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        assert_same(checkpoints.restore(abstract_state(MODEL, OPTIMIZER, mesh))[0], state)


def test_keeps_the_newest_and_every_nth(tmp_path):
    state, _ = state_on(MeshSpec())
    with Checkpoints(tmp_path, CheckpointSpec(keep=2, keep_every=4)) as checkpoints:
        for step in (3, 4, 5, 6, 7):
            checkpoints.save(step, state, {"step": step})
        assert checkpoints.steps() == [4, 6, 7]
        assert checkpoints.meta(4) == {"step": 4}


def test_one_made_in_between_displaces_none_of_the_newest(tmp_path):
    """At a signal or after an evaluation a checkpoint off the beat is made: it stays until the next is there."""
    state, _ = state_on(MeshSpec())
    with Checkpoints(tmp_path, CheckpointSpec(every=4, keep=2)) as checkpoints:
        kept = []
        for step in (4, 8, 9, 11, 12):
            checkpoints.save(step, state, {})
            kept.append(checkpoints.steps())
    assert kept == [[4], [4, 8], [4, 8, 9], [4, 8, 11], [8, 12]]


def test_the_best_stay_also_when_the_folder_is_opened_again(tmp_path):
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


def test_a_save_that_failed_leaves_nothing_and_can_be_tried_again(tmp_path, monkeypatch):
    """The disk fills up between the first byte and the rename."""
    state, mesh = state_on(MeshSpec())
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})

        def full(*args, **kwargs):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", full)
            patch.setattr(os, "replace", full)
            with pytest.raises(OSError, match="no space left for a checkpoint"):
                checkpoints.save(2, state, {}, 0.5)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["1"]
        assert (checkpoints.steps(), checkpoints.best()) == ([1], [])
        checkpoints.save(2, state, {"again": True})
        restored, meta = checkpoints.restore(abstract_state(MODEL, OPTIMIZER, mesh))
    assert meta == {"again": True}
    assert_same(restored, state)


def test_a_checkpoint_that_would_not_fit_is_not_begun(tmp_path, monkeypatch):
    state, _ = state_on(MeshSpec())
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    with Checkpoints(tmp_path) as checkpoints:
        for free, fits in ((needed - 1, False), (needed, True)):
            monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: SimpleNamespace(free=free))
            if fits:
                checkpoints.save(1, state, {})
            else:
                with pytest.raises(OSError, match="no space left for a checkpoint"):
                    checkpoints.save(1, state, {}, 0.5)
            assert len(list(tmp_path.iterdir())) == fits
        assert checkpoints.best() == []


def test_same_step_is_replaced(tmp_path):
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
        with pytest.raises(OSError, match=r"no space left for a checkpoint in .* free some space"):
            checkpoints.save(1, state, {})

"""A checkpoint is whole or not there, and comes back bit for bit on any mesh."""

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

"""The layout of checkpoints: one layer per chunk, no compression, and only a few chunks in memory."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

import jaxrl.checkpointing.array_layout
from jaxrl.checkpointing.array_layout import StoredArray, array_handler, open_array, restore_arguments, save_arguments
from models.config import Qwen2Config
from models.convert import FileArray, load_params, open_params, save_params
from models.hf_names import abstract_params

CONFIG = Qwen2Config(
    vocab_size=96,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
)
TREE = {
    "stacked": jnp.arange(3 * 4 * 6, dtype=jnp.bfloat16).reshape(3, 4, 6),
    "flat": {"table": jnp.arange(40, dtype=jnp.float32).reshape(8, 5), "count": jnp.int32(7)},
}


def save(folder, tree):
    with ocp.Checkpointer(array_handler()) as checkpointer:
        checkpointer.save(folder, args=save_arguments(tree))


def metadata(array: StoredArray) -> dict:
    return array.store.spec().to_json()["metadata"]


def test_a_chunk_is_at_most_a_layer_and_not_compressed(tmp_path, monkeypatch):
    monkeypatch.setattr(jaxrl.checkpointing.array_layout, "CHUNK_BYTES", 60)
    save(tmp_path / "saved", TREE)
    stacked, table = open_array(tmp_path / "saved", ("stacked",)), open_array(tmp_path / "saved", ("flat", "table"))
    assert metadata(stacked)["chunks"] == [1, 4, 6] and metadata(stacked)["compressor"] is None
    assert np.prod(metadata(table)["chunks"]) * 4 <= 60
    np.testing.assert_array_equal(stacked[1], TREE["stacked"][1])
    np.testing.assert_array_equal(table[3:100], TREE["flat"]["table"][3:])
    assert (stacked.shape, stacked.dtype, stacked.size) == ((3, 4, 6), TREE["stacked"].dtype, 72)


@pytest.fixture
def folder(tmp_path):
    """A model folder and its parameters."""
    keys = iter(jax.random.split(jax.random.key(0), 99))
    params = jax.tree.map(lambda leaf: jax.random.normal(next(keys), leaf.shape, leaf.dtype), abstract_params(CONFIG))
    save_params(tmp_path / "model", params, CONFIG)
    return tmp_path / "model"


def test_file_arrays_are_saved_like_arrays(folder, tmp_path):
    params = load_params(folder, CONFIG)
    save(tmp_path / "arrays", {"params": params})
    save(tmp_path / "files", {"params": open_params(folder, CONFIG)})
    with contextlib.closing(array_handler(params)) as reader:
        found = reader.restore(tmp_path / "files", args=restore_arguments({"params": params}))["params"]
    assert jax.tree.all(jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), found, params))
    # Plain Orbax reads it as well.
    plain = ocp.StandardCheckpointer().restore(tmp_path / "files")["params"]
    assert jax.tree.all(jax.tree.map(np.array_equal, plain, params))
    path = ("params", "layers", "mlp", "up", "kernel")
    assert metadata(open_array(tmp_path / "files", path)) == metadata(open_array(tmp_path / "arrays", path))


def test_file_arrays_are_read_in_chunks(folder, tmp_path, monkeypatch):
    sizes, original = [], FileArray.__getitem__

    def recorded(leaf, index):
        part = original(leaf, index)
        if isinstance(index, slice):  # a slice of a stacked leaf reads its layers one by one
            sizes.append(part.nbytes)
        return part

    monkeypatch.setattr(FileArray, "__getitem__", recorded)
    monkeypatch.setattr(jaxrl.checkpointing.array_layout, "CHUNK_BYTES", 2048)
    save(tmp_path / "saved", open_params(folder, CONFIG))
    leaves = jax.tree.leaves(load_params(folder, CONFIG))
    assert max(leaf.nbytes for leaf in leaves) == 96 * 16 * 4 > 2048 >= max(sizes)
    assert sum(sizes) == sum(leaf.nbytes for leaf in leaves)


def test_checkpoints_in_the_default_layout_of_orbax_are_read(tmp_path):
    with ocp.StandardCheckpointer() as other:
        other.save(tmp_path / "saved", TREE)
    stacked = open_array(tmp_path / "saved", ("stacked",))
    assert metadata(stacked)["compressor"] is not None
    np.testing.assert_array_equal(stacked[2], TREE["stacked"][2])
    with contextlib.closing(array_handler(TREE)) as reader:
        found = reader.restore(tmp_path / "saved", args=restore_arguments(TREE))
    assert jax.tree.all(jax.tree.map(np.array_equal, found, TREE))

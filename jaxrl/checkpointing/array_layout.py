"""The layout of arrays in a checkpoint: chunks of at most one layer, uncompressed, in files of moderate size.

With Orbax's defaults (one chunk per array, compression, files of 2 GiB), writing holds several of the largest arrays in
host memory. In this layout an array is written without a copy, an array that is never in memory as a whole can be
written as well (`FileArray`), and single layers can be read (`StoredArray`).
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from models.convert import FileArray

CHUNK_BYTES = 32 << 20
FILE_BYTES = 128 << 20


class _FileArrayHandler(ocp.type_handlers.NumpyHandler):
    """Saves a `FileArray` like the numpy array that it reads from its files, with two chunks in flight.

    `_open_and_write` is a private method of Orbax: its public interface offers no way to write an array in chunks
    except a handler with its own TensorStore specs, which would have to match those of the other arrays. If Orbax
    renames the method, whole arrays are written, and tests/checkpointing/test_array_layout.py fails.
    """

    async def _open_and_write(self, value: FileArray, tspec: dict[str, Any], ts_context: ts.Context) -> None:
        store = await ts.open(ts.Spec(tspec), create=True, open=True, context=ts_context)
        step, pending = store.chunk_layout.write_chunk.shape[0], None
        for start in range(0, value.shape[0], step):
            stop = min(start + step, value.shape[0])
            writing = store[start:stop].write(value[start:stop], can_reference_source_data_indefinitely=True)
            if pending is not None:
                pending.result()  # blocks the event loop on purpose: other arrays would add to the memory in use
            pending = writing
        pending.result()


def array_handler(abstract: Any = None) -> ocp.PyTreeCheckpointHandler:
    """Orbax's handler of a tree of arrays, which may include `FileArray`s. Writes this layout, reads any.

    abstract: the arrays to restore; all reads in flight then take no more host memory than the largest of them.
    """
    largest = max((math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract)), default=0)
    kinds = ocp.type_handlers.create_type_handler_registry(
        (FileArray, _FileArrayHandler()),
        *((kind, ocp.type_handlers.get_type_handler(kind)) for kind in (np.ndarray, jax.Array)),
    )
    return ocp.PyTreeCheckpointHandler(
        use_compression=False, type_handler_registry=kinds, restore_concurrent_gb=math.ceil(largest / 10**9) or None
    )


def save_arguments(tree: Any) -> ocp.args.PyTreeSave:
    """The arguments with which `array_handler` saves `tree` in this layout."""

    def chunks(leaf) -> ocp.SaveArgs:
        layer_axis = (0,) if len(leaf.shape) > 2 else ()
        return ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES, shard_axes=layer_axis)

    return ocp.args.PyTreeSave(tree, save_args=jax.tree.map(chunks, tree), ocdbt_target_data_file_size=FILE_BYTES)


def restore_arguments(abstract: Any, partial: bool = False) -> ocp.args.PyTreeRestore:
    """The arguments with which `array_handler` restores the arrays of `abstract` with their dtypes and shardings.

    partial: ignore other arrays of the checkpoint.
    """
    arguments = ocp.checkpoint_utils.construct_restore_args(abstract)
    return ocp.args.PyTreeRestore(abstract, restore_args=arguments, partial_restore=partial)


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array in a checkpoint. `stored[i]` and `stored[i:j]` along the first axis read that part."""

    store: ts.TensorStore

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.store.shape)

    @property
    def dtype(self) -> np.dtype:
        return self.store.dtype.numpy_dtype

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __getitem__(self, index: int | slice) -> np.ndarray:
        if isinstance(index, slice):  # slices of numpy may end beyond the array, those of TensorStore may not
            index = slice(*index.indices(self.shape[0]))
        return self.store[index].read().result()


def open_array(folder: Path, path: tuple[str, ...]) -> StoredArray:
    """Opens the array at `path` of the tree that `array_handler` saved in `folder`, without reading it."""
    kvstore = {"driver": "ocdbt", "base": f"file://{folder.absolute()}/", "path": f"{'.'.join(path)}/"}
    return StoredArray(ts.open({"driver": "zarr", "kvstore": kvstore}, open=True, read=True).result())

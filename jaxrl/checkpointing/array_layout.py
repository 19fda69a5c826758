"""How arrays lie in a checkpoint: in chunks of at most one layer, uncompressed, in files of moderate size.

Orbax's defaults (a whole array a chunk, compressed, files of 2 GiB) hold several of the largest arrays in host memory
while they write. So cut, an array is written from where it is, one that is never whole in memory can be written too
(`FileArray`), and one layer can be read alone (`StoredArray`).
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
    """Writes a `FileArray` as the array it stands for, two chunks in flight."""

    async def _open_and_write(self, value: FileArray, tspec: dict[str, Any], ts_context: ts.Context) -> None:
        store = await ts.open(ts.Spec(tspec), create=True, open=True, context=ts_context)
        step, pending = store.chunk_layout.write_chunk.shape[0], None
        for start in range(0, value.shape[0], step):
            stop = min(start + step, value.shape[0])
            writing = store[start:stop].write(value[start:stop], can_reference_source_data_indefinitely=True)
            if pending is not None:
                pending.result()  # holds up the other arrays as well: they share the memory
            pending = writing
        pending.result()


def array_handler(abstract: Any = None) -> ocp.PyTreeCheckpointHandler:
    """Orbax's handler of a tree of arrays, `FileArray`s among them, in this layout. Reads every other layout too.

    abstract: the arrays to be restored; their host buffers together are then at most as large as the largest of them.
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
    """What `array_handler` is given to save `tree`."""

    def cut(leaf) -> ocp.SaveArgs:
        layers = (0,) if len(leaf.shape) > 2 else ()
        return ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES, shard_axes=layers)

    return ocp.args.PyTreeSave(tree, save_args=jax.tree.map(cut, tree), ocdbt_target_data_file_size=FILE_BYTES)


def restore_arguments(abstract: Any, partial: bool = False) -> ocp.args.PyTreeRestore:
    """What `array_handler` is given to restore the arrays of `abstract`, placed as it says. partial: and no others."""
    arguments = ocp.checkpoint_utils.construct_restore_args(abstract)
    return ocp.args.PyTreeRestore(abstract, restore_args=arguments, partial_restore=partial)


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array in a checkpoint: `stored[i]` and `stored[i:j]` along the first axis read it."""

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
        if isinstance(index, slice):  # numpy's slices may end beyond the array, tensorstore's may not
            index = slice(*index.indices(self.shape[0]))
        return self.store[index].read().result()


def open_array(folder: Path, path: tuple[str, ...]) -> StoredArray:
    """The array at `path` of the tree that `array_handler` saved in `folder`."""
    kvstore = {"driver": "ocdbt", "base": f"file://{folder.absolute()}/", "path": f"{'.'.join(path)}/"}
    return StoredArray(ts.open({"driver": "zarr", "kvstore": kvstore}, open=True, read=True).result())

"""Weights in and out: one table of Hugging Face names and our paths, read both ways, one tensor at a time.

Loading maps the files into memory and hands each device only its own slice; stacked layers are filled in
place, so that host memory beyond the arrays is one tensor. `open_params` holds no arrays at all: its leaves
read what is asked of them. Saving takes either kind, writes beside the target, re-reads and compares every
byte, and only then takes the target's place.
"""

import dataclasses
import functools
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from jax.typing import DTypeLike

from models.config import Qwen2Config
from models.folder import CONFIG, INDEX, WEIGHTS, companions, read_config_json, read_entries, replacing
from models.hf_names import EMBEDDING, Slot, abstract_params, check_entries, check_params, tensor_slots
from models.safetensors_file import CODES, DTYPES, Entry, read_header, transpose, view, write_file

DEFAULT_SHARD_BYTES = 5_000_000_000
SPARE_BYTES = 1 << 20  # for config and index beside weights and companions
BLOCK_BYTES = 16 << 20  # of a tensor at a time; larger buffers go back to the system and are cleared anew each time


def load_params(
    folder: str | Path,
    config: Qwen2Config,
    *,
    shardings: Mapping[str, Any] | Sharding | None = None,
    dtype: DTypeLike | None = None,
) -> dict[str, Any]:
    """Parameters of a Hugging Face folder as the scanned tree, each device holding only its shard.

    shardings: a tree like the parameters, or one sharding for all; None is the first device. dtype: None
    keeps what is stored (float32 for a leaf whose layers differ). Raises as `read_entries` and
    `check_entries` do.
    """
    leaves = flatten_dict(open_params(folder, config, dtype=dtype), sep="/")
    if shardings is None:
        shardings = SingleDeviceSharding(jax.devices()[0])
    one = isinstance(shardings, Sharding)
    places = dict.fromkeys(leaves, shardings) if one else flatten_dict(shardings, sep="/")
    return unflatten_dict({path: _fill(leaf, places[path]) for path, leaf in leaves.items()}, sep="/")


@dataclasses.dataclass(frozen=True)
class FileArray:
    """One leaf of the parameters, still in its files: `leaf[i]` and `leaf[i:j]` along the first axis read it.

    tensors: where its layers lie, or its one tensor when it is not stacked.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    tensors: tuple[tuple[Slot, Entry], ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def stacked(self) -> bool:
        return self.tensors[0][0].layer is not None

    def __getitem__(self, index: int | slice) -> np.ndarray:
        if not self.stacked:
            return np.asarray(view(self.tensors[0][1])[index], self.dtype)
        if isinstance(index, slice):
            return np.stack([self[layer] for layer in range(*index.indices(self.shape[0]))])
        slot, entry = self.tensors[index]
        tensor = view(entry).astype(self.dtype, copy=False)
        return transpose(tensor) if slot.transposed else tensor


def open_params(folder: str | Path, config: Qwen2Config, *, dtype: DTypeLike | None = None) -> dict[str, Any]:
    """The scanned tree of a Hugging Face folder with a `FileArray` at each leaf: checked, and nothing read yet.

    dtype: None keeps what is stored (float32 for a leaf whose layers differ). Raises as `read_entries` and
    `check_entries` do.
    """
    slots = tensor_slots(config)
    entries = check_entries(folder, read_entries(folder), slots)
    leaves = {}
    for path, leaf in flatten_dict(abstract_params(config), sep="/").items():
        found = tuple((slot, entries[name]) for name, slot in slots.items() if slot.path == path)
        leaves[path] = FileArray(leaf.shape, _leaf_dtype(found, dtype), found)
    return unflatten_dict(leaves, sep="/")


def _leaf_dtype(found: tuple[tuple[Slot, Entry], ...], dtype: DTypeLike | None) -> np.dtype:
    stored = {DTYPES[entry.code] for _, entry in found}
    if dtype is not None:
        return jnp.dtype(dtype)
    return stored.pop() if len(stored) == 1 else np.dtype(np.float32)


def _fill(leaf: FileArray, sharding: Sharding) -> jax.Array:
    """One leaf on its devices: layers are written into the stacked array there, in place."""
    filled = None
    if leaf.stacked:
        filled = jax.jit(lambda: jnp.zeros(leaf.shape, leaf.dtype), out_shardings=sharding)()
    for slot, entry in leaf.tensors:
        # The view is transposed and the copy to the device follows it: five times faster than XLA's loop on a CPU.
        source = view(entry).T if slot.transposed else view(entry)
        piece = jax.make_array_from_callback(source.shape, _piece_sharding(sharding, leaf), source.__getitem__)
        if leaf.stacked:
            filled = _place(sharding)(filled, piece, jnp.int32(slot.layer))
        else:
            filled = _copy(leaf.dtype, sharding)(piece)
        filled.block_until_ready()  # one tensor in flight
    return filled


def _piece_sharding(sharding: Sharding, leaf: FileArray) -> Sharding:
    """How one layer lies on the devices when its leaf lies as `sharding`: the same cut."""
    if not (leaf.stacked and isinstance(sharding, NamedSharding)):
        return sharding
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))


@functools.cache
def _place(sharding: Sharding):
    def place(leaf, piece, layer):
        return jax.lax.dynamic_update_index_in_dim(leaf, piece.astype(leaf.dtype), layer, 0)

    return jax.jit(place, donate_argnums=0, out_shardings=sharding)


@functools.cache
def _copy(dtype: np.dtype, sharding: Sharding):
    # a copy even where nothing changes: the result must not alias the mapped file
    return jax.jit(lambda piece: jnp.copy(piece.astype(dtype)), out_shardings=sharding)


class _File(NamedTuple):
    """One weight file to write: dtype and stored shape by tensor name, and the file's metadata."""

    name: str
    tensors: dict[str, tuple[np.dtype, tuple[int, ...]]]
    metadata: dict[str, str]


def _size(dtype: np.dtype, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * dtype.itemsize


def _source_files(source: Path, slots: Mapping[str, Slot], dtype: np.dtype | None) -> list[_File]:
    """The source's own files, order, metadata and dtypes (unless one is asked for)."""
    entries = read_entries(source)
    check_entries(source, entries, slots)
    files = []
    for path in dict.fromkeys(entry.path for entry in entries.values()):
        header, metadata = read_header(path)
        tensors = {name: (dtype or DTYPES[entry.code], entry.shape) for name, entry in header.items()}
        files.append(_File(path.name, tensors, metadata))
    return files


def _split(tensors: dict[str, tuple[np.dtype, tuple[int, ...]]], limit: int) -> list[_File]:
    """Tensors in order, cut into files of at most `limit` bytes (one tensor alone may be larger)."""
    groups: list[dict] = [{}]
    filled = 0
    for name, kind in tensors.items():
        if groups[-1] and filled + _size(*kind) > limit:
            groups.append({})
            filled = 0
        groups[-1][name] = kind
        filled += _size(*kind)
    metadata = {"format": "pt"}
    if len(groups) == 1:
        return [_File(WEIGHTS, groups[0], metadata)]
    return [
        _File(f"model-{i:05d}-of-{len(groups):05d}.safetensors", group, metadata)
        for i, group in enumerate(groups, start=1)
    ]


def _plan(
    params: Mapping[str, Any],
    slots: Mapping[str, Slot],
    source: Path | None,
    dtype: np.dtype | None,
    max_shard_bytes: int | None,
) -> list[_File]:
    if source is None:
        kinds = {name: (dtype or np.dtype(params[slot.path].dtype), slot.shape) for name, slot in slots.items()}
        return _split(kinds, max_shard_bytes or DEFAULT_SHARD_BYTES)
    files = _source_files(source, slots, dtype)
    if max_shard_bytes is None:
        return files
    return _split({name: kind for file in files for name, kind in file.tensors.items()}, max_shard_bytes)


@jax.jit
def _layer(leaf: jax.Array, layer: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(leaf, layer, 0, keepdims=False)


def _blocks(params: Mapping[str, Any], slots: Mapping[str, Slot], name: str, dtype: np.dtype) -> Iterator[np.ndarray]:
    """One tensor as it is stored, [out, in] in the file's dtype, in blocks of rows. A tied head is the embedding."""
    slot = slots.get(name) or slots[EMBEDDING]
    leaf = params[slot.path]
    if slot.layer is not None:
        leaf = np.asarray(_layer(leaf, jnp.int32(slot.layer)) if isinstance(leaf, jax.Array) else leaf[slot.layer])
    rows = max(1, BLOCK_BYTES * slot.shape[0] // _size(np.dtype(leaf.dtype), slot.shape))
    for start in range(0, slot.shape[0], rows):
        part = slice(start, start + rows)
        block = transpose(leaf[:, part]) if slot.transposed else np.asarray(leaf[part])
        yield block.astype(dtype, copy=False)


def _file_blocks(params, slots, file: _File) -> Iterator[np.ndarray]:
    return (block for name, (dtype, _) in file.tensors.items() for block in _blocks(params, slots, name, dtype))


def _config_json(source: Path | None, config: Qwen2Config, dtype: np.dtype | None, stored: np.dtype) -> bytes:
    """The source's `config.json` to the byte, unless the dtype changes; without a source, one of our own."""
    if source is None:
        fields = config.to_hugging_face() | {"torch_dtype": stored.name}
    else:
        fields = read_config_json(source)
        key = "torch_dtype" if "torch_dtype" in fields else "dtype"
        if dtype is None or fields.get(key) == stored.name:
            return (source / CONFIG).read_bytes()
        fields[key] = stored.name
    return (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def _write_index(temporary: Path, files: list[_File], source: Path | None) -> None:
    kinds = {name: kind for file in files for name, kind in file.tensors.items()}
    index = {
        "metadata": {"total_size": sum(_size(*kind) for kind in kinds.values())},
        "weight_map": {
            name: file.name for name, file in sorted((name, file) for file in files for name in file.tensors)
        },
    }
    if source is not None and (source / INDEX).is_file():
        text = (source / INDEX).read_text(encoding="utf-8")
        theirs = json.loads(text)
        if theirs["weight_map"] == index["weight_map"]:
            size = theirs.get("metadata", {}).get("total_size")
            changed = sum(_size(*kind) for kind in kinds.values()) != sum(
                entry.end - entry.start for entry in read_entries(source).values()
            )
            if not changed or size is None:
                (temporary / INDEX).write_text(text, encoding="utf-8")
                return
    (temporary / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def save_params(
    folder: str | Path,
    params: Mapping[str, Any],
    config: Qwen2Config,
    *,
    source_folder: str | Path | None = None,
    dtype: DTypeLike | None = None,
    max_shard_bytes: int | None = None,
) -> None:
    """Write the scanned tree as a Hugging Face folder, re-read it, compare every byte, and put it in place.

    source_folder: the model it came from; its tokenizer files, chat template, generation config and config
    keys are carried along, and its dtypes and files are kept. dtype: "bfloat16", "float16" or "float32" for
    all tensors; None keeps the source's (without one, the parameters'). max_shard_bytes: None keeps the
    source's files (without one, 5 GB). Raises ValueError before anything is written when something does not
    fit, OSError on a full disk.
    """
    leaves, slots = check_params(params, config), tensor_slots(config)
    source = None if source_folder is None else Path(source_folder)
    chosen = stored_dtype(dtype)
    if max_shard_bytes is not None and max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes must be at least 1, got {max_shard_bytes}; 5000000000 is usual.")
    if source is not None and Qwen2Config.from_hugging_face(read_config_json(source)) != config:
        raise ValueError(
            f"{source} holds a model of another shape than the parameters; name the folder that the run started from."
        )
    files = _plan(leaves, slots, source, chosen, max_shard_bytes)
    extra = companions(source) if source is not None else []
    needed = (
        SPARE_BYTES
        + sum(path.stat().st_size for path in extra)
        + sum(_size(*kind) for file in files for kind in file.tensors.values())
    )
    _check_space(Path(folder), needed)
    with replacing(folder) as temporary:
        for file in files:
            write_file(temporary / file.name, file.tensors, _file_blocks(leaves, slots, file), file.metadata)
        if [file.name for file in files] != [WEIGHTS]:
            _write_index(temporary, files, source)
        stored = next(iter(files[0].tensors.values()))[0]
        (temporary / CONFIG).write_bytes(_config_json(source, config, chosen, stored))
        for path in extra:
            shutil.copyfile(path, temporary / path.name)
        _verify(temporary, leaves, slots, files)


def stored_dtype(dtype: DTypeLike | None) -> np.dtype | None:
    """The dtype asked for, None for none. Raises ValueError for one that a checkpoint cannot hold."""
    if dtype is None:
        return None
    names = [known.name for known in CODES]
    name = dtype if isinstance(dtype, str) else jnp.dtype(dtype).name
    if name not in names:
        raise ValueError(f"dtype must be one of {', '.join(names)}, got {name!r}; choose one of them.")
    return jnp.dtype(name)


def _check_space(folder: Path, needed: int) -> None:
    place = next(parent for parent in folder.absolute().parents if parent.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OSError(
            f"{folder} needs {needed / 1e9:.2f} GB and {place} has {free / 1e9:.2f} GB free; "
            "free some space or choose another disk. Nothing was written."
        )


def _verify(temporary: Path, params: Mapping[str, Any], slots: Mapping[str, Slot], files: list[_File]) -> None:
    """Read everything back as a stranger would and compare it with what was meant. Raises OSError."""
    entries = read_entries(temporary)
    meant = {name: kind for file in files for name, kind in file.tensors.items()}
    wrong = sorted(set(entries) ^ set(meant))
    for name, (dtype, _) in meant.items():
        if name in entries and not _equal(entries[name], _blocks(params, slots, name, dtype)):
            wrong.append(name)
    if wrong:
        raise OSError(
            f"what was read back differs from what was written: {', '.join(wrong)}; "
            "the disk may be failing, the old folder was left as it was."
        )


def _equal(entry: Entry, blocks: Iterator[np.ndarray]) -> bool:
    """Whether the file holds these blocks, one after another, to the bit."""
    start = 0
    for block in blocks:
        found = view(entry).reshape(-1)[start : start + block.size]  # mapped anew: what was compared leaves the memory
        if found.dtype != block.dtype or not np.array_equal(found.view(np.uint8), block.reshape(-1).view(np.uint8)):
            return False
        start += block.size
    return start == math.prod(entry.shape)

"""Loads and saves parameters in Hugging Face's format, one tensor at a time.

Loading maps the files into memory and copies to each device only its shard. Layers are written into the stacked arrays
in place, so that the host needs memory for one tensor besides the arrays. `open_params` reads nothing: its leaves read
slices on access. Saving takes arrays or such leaves, writes to a temporary folder, re-reads and compares all bytes, and
then replaces the target folder atomically.
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
from models.hf_names import EMBEDDING, TensorSpec, abstract_params, check_entries, check_params, tensor_specs
from models.safetensors_file import CODES, DTYPES, TensorEntry, map_tensor, read_header, transpose, write_file

DEFAULT_SHARD_BYTES = 5_000_000_000
SPARE_BYTES = 1 << 20  # disk space for config and index
BLOCK_BYTES = 16 << 20  # written at a time; malloc returns larger buffers to the system, and each new one is zeroed


def load_params(
    folder: str | Path,
    config: Qwen2Config,
    *,
    shardings: Mapping[str, Any] | Sharding | None = None,
    dtype: DTypeLike | None = None,
) -> dict[str, Any]:
    """Loads the scanned parameter tree of a Hugging Face folder; each device gets only its shard.

    shardings: a tree like the parameters, or one sharding for all leaves; None: the first device. dtype: None keeps the
    stored dtype (float32 for a leaf whose layers differ in dtype). Raises as `read_entries` and `check_entries`.
    """
    leaves = flatten_dict(open_params(folder, config, dtype=dtype), sep="/")
    if shardings is None:
        shardings = SingleDeviceSharding(jax.devices()[0])
    uniform = isinstance(shardings, Sharding)
    by_path = dict.fromkeys(leaves, shardings) if uniform else flatten_dict(shardings, sep="/")
    return unflatten_dict({path: _load_leaf(leaf, by_path[path]) for path, leaf in leaves.items()}, sep="/")


@dataclasses.dataclass(frozen=True)
class FileArray:
    """A parameter leaf that is stored in files. `leaf[i]` and `leaf[i:j]` read along the first axis.

    tensors: its layers in order, or its single tensor if it is not stacked.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    tensors: tuple[tuple[TensorSpec, TensorEntry], ...]

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
            return np.asarray(map_tensor(self.tensors[0][1])[index], self.dtype)
        if isinstance(index, slice):
            return np.stack([self[layer] for layer in range(*index.indices(self.shape[0]))])
        spec, entry = self.tensors[index]
        tensor = map_tensor(entry).astype(self.dtype, copy=False)
        return transpose(tensor) if spec.transposed else tensor


def open_params(folder: str | Path, config: Qwen2Config, *, dtype: DTypeLike | None = None) -> dict[str, Any]:
    """The scanned parameter tree of a Hugging Face folder with `FileArray` leaves: checked, but not read.

    dtype: None keeps the stored dtype (float32 for a leaf whose layers differ in dtype). Raises as `read_entries` and
    `check_entries`.
    """
    specs = tensor_specs(config)
    entries = check_entries(folder, read_entries(folder), specs)
    leaves = {}
    shapes: dict[str, Any] = flatten_dict(abstract_params(config), sep="/")  # pyright: ignore[reportAssignmentType]
    for path, leaf in shapes.items():
        tensors = tuple((spec, entries[name]) for name, spec in specs.items() if spec.path == path)
        leaves[path] = FileArray(leaf.shape, _leaf_dtype(tensors, dtype), tensors)
    return unflatten_dict(leaves, sep="/")


def _leaf_dtype(tensors: tuple[tuple[TensorSpec, TensorEntry], ...], dtype: DTypeLike | None) -> np.dtype:
    stored = {DTYPES[entry.code] for _, entry in tensors}
    if dtype is not None:
        return jnp.dtype(dtype)
    return stored.pop() if len(stored) == 1 else np.dtype(np.float32)


def _load_leaf(leaf: FileArray, sharding: Sharding) -> jax.Array:
    """Loads a leaf to its devices. Layers are written into the stacked array in place."""
    array = _zeros(leaf.shape, leaf.dtype, sharding)() if leaf.stacked else None
    for spec, entry in leaf.tensors:
        # Transposing during the copy to the device is five times faster than transposing with XLA on a CPU.
        source = map_tensor(entry).T if spec.transposed else map_tensor(entry)
        tensor = jax.make_array_from_callback(source.shape, _layer_sharding(sharding, leaf), source.__getitem__)
        if leaf.stacked:
            array = _write_layer(sharding)(array, tensor, jnp.int32(spec.layer))
        else:
            array = _copy(leaf.dtype, sharding)(tensor)
        array.block_until_ready()  # at most one tensor in flight
    return array  # pyright: ignore[reportReturnType]


def _layer_sharding(sharding: Sharding, leaf: FileArray) -> Sharding:
    """The sharding of one layer of a leaf that is sharded as `sharding`."""
    if not (leaf.stacked and isinstance(sharding, NamedSharding)):
        return sharding
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))


@functools.cache
def _zeros(shape: tuple[int, ...], dtype: np.dtype, sharding: Sharding):
    return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)


@functools.cache
def _write_layer(sharding: Sharding):
    def write_layer(leaf, tensor, layer):
        return jax.lax.dynamic_update_index_in_dim(leaf, tensor.astype(leaf.dtype), layer, 0)

    return jax.jit(write_layer, donate_argnums=0, out_shardings=sharding)


@functools.cache
def _copy(dtype: np.dtype, sharding: Sharding):
    # jnp.copy, because the result must not alias the memory-mapped file
    return jax.jit(lambda tensor: jnp.copy(tensor.astype(dtype)), out_shardings=sharding)


class _WeightFile(NamedTuple):
    """A weight file to write: dtype and shape of each tensor by name, and the metadata."""

    name: str
    tensors: dict[str, tuple[np.dtype, tuple[int, ...]]]
    metadata: dict[str, str]


def _size(dtype: np.dtype, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * dtype.itemsize


def _source_files(source: Path, specs: Mapping[str, TensorSpec], dtype: np.dtype | None) -> list[_WeightFile]:
    """The files of the source, with their order, metadata and (unless `dtype` is given) dtypes."""
    entries = read_entries(source)
    check_entries(source, entries, specs)
    files = []
    for path in dict.fromkeys(entry.path for entry in entries.values()):
        header, metadata = read_header(path)
        tensors = {name: (dtype or DTYPES[entry.code], entry.shape) for name, entry in header.items()}
        files.append(_WeightFile(path.name, tensors, metadata))
    return files


def _split(tensors: dict[str, tuple[np.dtype, tuple[int, ...]]], limit: int) -> list[_WeightFile]:
    """Splits the tensors, in order, into files of at most `limit` bytes; a larger tensor gets its own file."""
    groups: list[dict] = [{}]
    size = 0
    for name, kind in tensors.items():
        if groups[-1] and size + _size(*kind) > limit:
            groups.append({})
            size = 0
        groups[-1][name] = kind
        size += _size(*kind)
    metadata = {"format": "pt"}
    if len(groups) == 1:
        return [_WeightFile(WEIGHTS, groups[0], metadata)]
    return [
        _WeightFile(f"model-{i:05d}-of-{len(groups):05d}.safetensors", group, metadata)
        for i, group in enumerate(groups, start=1)
    ]


def _plan_files(
    params: Mapping[str, Any],
    specs: Mapping[str, TensorSpec],
    source: Path | None,
    dtype: np.dtype | None,
    max_shard_bytes: int | None,
) -> list[_WeightFile]:
    """The files to write: those of the source unless `max_shard_bytes` is given."""
    if source is None:
        kinds = {name: (dtype or np.dtype(params[spec.path].dtype), spec.shape) for name, spec in specs.items()}
        return _split(kinds, max_shard_bytes or DEFAULT_SHARD_BYTES)
    files = _source_files(source, specs, dtype)
    if max_shard_bytes is None:
        return files
    return _split({name: kind for file in files for name, kind in file.tensors.items()}, max_shard_bytes)


@jax.jit
def _layer(leaf: jax.Array, layer: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(leaf, layer, 0, keepdims=False)


def _tensor_blocks(
    params: Mapping[str, Any], specs: Mapping[str, TensorSpec], name: str, dtype: np.dtype
) -> Iterator[np.ndarray]:
    """A tensor in the file's layout ([out, in]) and dtype, in blocks of rows. A tied head is the embedding."""
    spec = specs.get(name) or specs[EMBEDDING]
    leaf = params[spec.path]
    if spec.layer is not None:
        leaf = np.asarray(_layer(leaf, jnp.int32(spec.layer)) if isinstance(leaf, jax.Array) else leaf[spec.layer])
    rows = max(1, BLOCK_BYTES * spec.shape[0] // _size(np.dtype(leaf.dtype), spec.shape))
    for start in range(0, spec.shape[0], rows):
        part = slice(start, start + rows)
        block = transpose(leaf[:, part]) if spec.transposed else np.asarray(leaf[part])
        yield block.astype(dtype, copy=False)


def _file_blocks(params, specs, file: _WeightFile) -> Iterator[np.ndarray]:
    return (block for name, (dtype, _) in file.tensors.items() for block in _tensor_blocks(params, specs, name, dtype))


def _config_json(source: Path | None, config: Qwen2Config, dtype: np.dtype | None, stored: np.dtype) -> bytes:
    """The source's `config.json`, byte for byte unless the dtype changes; a generated one without a source."""
    if source is None:
        fields = config.to_hugging_face() | {"torch_dtype": stored.name}
    else:
        fields = read_config_json(source)
        key = "torch_dtype" if "torch_dtype" in fields else "dtype"
        if dtype is None or fields.get(key) == stored.name:
            return (source / CONFIG).read_bytes()
        fields[key] = stored.name
    return (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def _write_index(temporary: Path, files: list[_WeightFile], source: Path | None) -> None:
    """Writes the index of several files. Keeps the source's bytes if its content is still right."""
    kinds = {name: kind for file in files for name, kind in file.tensors.items()}
    index = {
        "metadata": {"total_size": sum(_size(*kind) for kind in kinds.values())},
        "weight_map": {
            name: file.name for name, file in sorted((name, file) for file in files for name in file.tensors)
        },
    }
    if source is not None and (source / INDEX).is_file():
        text = (source / INDEX).read_text(encoding="utf-8")
        source_index = json.loads(text)
        if source_index["weight_map"] == index["weight_map"]:
            size = source_index.get("metadata", {}).get("total_size")
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
    """Writes the scanned parameter tree as a Hugging Face folder, verifies all bytes, and replaces `folder` atomically.

    source_folder: the model that the run started from; its tokenizer files, chat template, generation config and config
    keys are copied, and its dtypes and division into files are kept. dtype: "bfloat16", "float16" or "float32" for all
    tensors; None keeps the source's (without a source, the parameters'). max_shard_bytes: None keeps the source's files
    (without a source, 5 GB). Raises ValueError for parameters or options that do not fit, before anything is written;
    OSError on a full disk or if verification fails.
    """
    leaves, specs = check_params(params, config), tensor_specs(config)
    source = None if source_folder is None else Path(source_folder)
    chosen = stored_dtype(dtype)
    if max_shard_bytes is not None and max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes must be at least 1, got {max_shard_bytes}; a usual value is 5000000000.")
    if source is not None and Qwen2Config.from_hugging_face(read_config_json(source)) != config:
        raise ValueError(
            f"the model in {source} has another configuration than the parameters; "
            "pass the model that the run started from."
        )
    files = _plan_files(leaves, specs, source, chosen, max_shard_bytes)
    extra_files = companions(source) if source is not None else []
    needed = (
        SPARE_BYTES
        + sum(path.stat().st_size for path in extra_files)
        + sum(_size(*kind) for file in files for kind in file.tensors.values())
    )
    _check_space(Path(folder), needed)
    with replacing(folder) as temporary:
        for file in files:
            write_file(temporary / file.name, file.tensors, _file_blocks(leaves, specs, file), file.metadata)
        if [file.name for file in files] != [WEIGHTS]:
            _write_index(temporary, files, source)
        stored = next(iter(files[0].tensors.values()))[0]
        (temporary / CONFIG).write_bytes(_config_json(source, config, chosen, stored))
        for path in extra_files:
            shutil.copyfile(path, temporary / path.name)
        _verify(temporary, leaves, specs, files)


def stored_dtype(dtype: DTypeLike | None) -> np.dtype | None:
    """Validates the dtype of a checkpoint; None stays None. Raises ValueError for an unsupported dtype."""
    if dtype is None:
        return None
    names = [known.name for known in CODES]
    name = dtype if isinstance(dtype, str) else jnp.dtype(dtype).name
    if name not in names:
        raise ValueError(f"dtype must be one of {', '.join(names)}, got {name!r}; choose one of them.")
    return jnp.dtype(name)


def _check_space(folder: Path, needed: int) -> None:
    parent = next(parent for parent in folder.absolute().parents if parent.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise OSError(
            f"{folder} needs {needed / 1e9:.2f} GB and {parent} has {free / 1e9:.2f} GB free; "
            "free some space or choose another disk. Nothing was written."
        )


def _verify(
    temporary: Path, params: Mapping[str, Any], specs: Mapping[str, TensorSpec], files: list[_WeightFile]
) -> None:
    """Re-reads all files and compares them with the parameters. Raises OSError if they differ."""
    entries = read_entries(temporary)
    expected = {name: kind for file in files for name, kind in file.tensors.items()}
    wrong = sorted(set(entries) ^ set(expected))
    for name, (dtype, _) in expected.items():
        if name in entries and not _equal(entries[name], _tensor_blocks(params, specs, name, dtype)):
            wrong.append(name)
    if wrong:
        raise OSError(
            f"verification failed, the written data differ for {', '.join(wrong)}; the disk may be failing. "
            "The old folder is unchanged."
        )


def _equal(entry: TensorEntry, blocks: Iterator[np.ndarray]) -> bool:
    """Whether the tensor in the file equals the concatenated blocks bit for bit."""
    start = 0
    for block in blocks:
        stored = map_tensor(entry).reshape(-1)[start : start + block.size]  # a new map each time, to release memory
        if stored.dtype != block.dtype or not np.array_equal(stored.view(np.uint8), block.reshape(-1).view(np.uint8)):
            return False
        start += block.size
    return start == math.prod(entry.shape)

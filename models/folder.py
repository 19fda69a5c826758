"""Hugging Face model folders: config, tensors of all shards, and atomic replacement of a folder."""

import contextlib
import ctypes
import errno
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from models.config import Qwen2Config
from models.file_lock import lock
from models.safetensors_file import TensorEntry, read_header

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
COMPANIONS = (
    "generation_config.json",
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "LICENSE*",
)
"""Files of a model besides config and weights; copied by an export, fetched by a download."""
MODEL_FILES = (CONFIG, INDEX, "*.safetensors", "adapter_config.json", *COMPANIONS)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Raises ValueError with the file's name if it can't be parsed."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"expected JSON in {path}, got {error}; download or write it again.") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object in {path}, got a {type(value).__name__}; download it again.")
    return value


def read_config_json(folder: str | Path) -> dict[str, Any]:
    """The parsed `config.json` of a model folder. Raises FileNotFoundError if it is missing."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"expected a Hugging Face model folder at {folder}, found no {CONFIG}; "
            "pass a folder with config.json and safetensors weights."
        )
    return read_json(path)


def read_config(folder: str | Path) -> Qwen2Config:
    """The model configuration of a folder. Raises as `read_config_json` and `Qwen2Config.from_hugging_face`."""
    return Qwen2Config.from_hugging_face(read_config_json(folder))


def _shards(folder: Path) -> tuple[list[str], dict[str, str]]:
    """File names of the weights, and the index's map of tensor names to files (empty for a single file)."""
    index = folder / INDEX
    if index.is_file():
        listed = read_json(index).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(file, str) for file in listed.values()):
            raise ValueError(
                f"expected a weight_map of tensor names to files in {index}, found none; download it again."
            )
        missing = sorted({file for file in listed.values() if not (folder / file).is_file()})
        if missing:
            raise FileNotFoundError(
                f"files of {index} are missing in {folder}: {', '.join(missing)}; "
                "the download is incomplete, repeat it."
            )
        return sorted(set(listed.values())), listed
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS], {}
    other = sorted(path.name for path in folder.glob("*") if path.suffix in (".safetensors", ".bin"))
    raise FileNotFoundError(
        f"expected {WEIGHTS} or {INDEX} in {folder}, "
        f"found {', '.join(other) or 'neither'}; "
        "save the model as safetensors (as save_pretrained does) and pass that folder."
    )


def read_entries(folder: str | Path) -> dict[str, TensorEntry]:
    """All tensors of a folder by name, in the order of the shards. Checks the headers and reads no data.

    Raises FileNotFoundError or ValueError for missing, truncated or corrupt files, for tensors stored in two files, and
    for an index that disagrees with the files; the message lists all names.
    """
    folder = Path(folder)
    files, listed = _shards(folder)
    tensors: dict[str, TensorEntry] = {}
    duplicates: list[str] = []
    for file in files:
        entries, _ = read_header(folder / file)
        duplicates += [f"{name} (in {tensors[name].path.name} and {file})" for name in entries if name in tensors]
        tensors.update(entries)
    if duplicates:
        raise ValueError(f"{folder} stores tensors twice: {'; '.join(duplicates)}; keep one file of each.")
    if listed:
        wrong = [
            f"{name} (in the index: {file})"
            for name, file in listed.items()
            if name not in tensors or tensors[name].path.name != file
        ]
        wrong += [f"{name} (not in the index)" for name in tensors if name not in listed]
        if wrong:
            raise ValueError(f"{folder / INDEX} disagrees with its files on {'; '.join(wrong)}; download both again.")
    return tensors


def companions(folder: str | Path) -> list[Path]:
    """Tokenizer files, chat template, generation config and license of a folder."""
    return sorted(
        path
        for path in Path(folder).iterdir()
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in COMPANIONS)
    )


def _is_model_file(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in MODEL_FILES)


@contextlib.contextmanager
def replacing(folder: str | Path) -> Iterator[Path]:
    """Yields a temporary folder beside `folder`, which replaces it when the block ends without an error.

    A crash at any time leaves the old folder intact; the next call removes the temporary folder. If the file system
    can't exchange two folders (NFS), a crash between two renames leaves the old folder as `.NAME.old`, and the next
    call restores it. Raises FileExistsError if `folder` has files that are no part of a model, or if another process is
    writing it; OSError on a full disk. Warns if the file system has no locks.
    """
    folder = Path(folder).absolute()
    if folder.exists():
        if not folder.is_dir():
            raise FileExistsError(f"expected a folder at {folder}, got a file; choose a new folder.")
        others = sorted(path.name for path in folder.iterdir() if not _is_model_file(path.name))
        if others:
            raise FileExistsError(
                f"{folder} would be replaced, but has files that are no part of a model "
                f"({', '.join(others[:5])}); choose a new folder."
            )
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock_path = folder.parent / f".{folder.name}.lock"
    partial = folder.parent / f".{folder.name}.partial"
    with lock_path.open("w") as lock_file:
        try:
            warning = lock(lock_file.fileno(), lock_path)
        except BlockingIOError as error:
            raise FileExistsError(f"another process is writing {folder}; wait until it has finished.") from error
        if warning:
            warnings.warn(warning, stacklevel=3)  # attributed to the caller of the context manager
        try:
            if _backup_path(folder).exists() and not folder.exists():
                _backup_path(folder).rename(folder)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            yield partial
            _exchange(partial, folder)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise OSError(
                f"no space left while writing {folder}; free some space or choose another disk. "
                "The old folder is unchanged."
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            lock_path.unlink(missing_ok=True)


def _backup_path(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _exchange(new: Path, old: Path) -> None:
    """Replaces `old` by `new` atomically where possible. Afterwards the old content, if any, is in `new`."""
    if not old.exists():
        new.rename(old)
        return
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename and rename(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE) == 0:
        return
    shutil.rmtree(_backup_path(old), ignore_errors=True)
    old.rename(_backup_path(old))
    new.rename(old)
    shutil.rmtree(_backup_path(old), ignore_errors=True)

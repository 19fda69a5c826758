"""A Hugging Face model folder: its config, its tensors across shards, and replacing a folder in one move."""

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
from models.safetensors_file import Entry, read_header

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
"""Files of a model besides config and weights: an export carries them along, a download asks for them."""
OURS = (CONFIG, INDEX, "*.safetensors", "adapter_config.json", *COMPANIONS)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ValueError that names the file when it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not readable JSON ({error}); download or write it again.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, got a {type(value).__name__}; download it again.")
    return value


def read_config_json(folder: str | Path) -> dict[str, Any]:
    """The parsed `config.json` of a model folder. Raises FileNotFoundError where there is none."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"expected a Hugging Face model folder at {folder}, but it has no {CONFIG}; "
            "point to a folder with config.json and safetensors weights."
        )
    return read_json(path)


def read_config(folder: str | Path) -> Qwen2Config:
    """The model shape of a folder. Raises as `read_config_json` and `Qwen2Config.from_hugging_face` do."""
    return Qwen2Config.from_hugging_face(read_config_json(folder))


def _shards(folder: Path) -> tuple[list[str], dict[str, str]]:
    """File names of the weights, and the index's name -> file map (empty for a single file)."""
    index = folder / INDEX
    if index.is_file():
        listed = read_json(index).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(file, str) for file in listed.values()):
            raise ValueError(f"{index} holds no weight_map of tensor names to files; download it again.")
        missing = sorted({file for file in listed.values() if not (folder / file).is_file()})
        if missing:
            raise FileNotFoundError(
                f"{index} names files that are not in {folder}: {', '.join(missing)}; "
                "the download is incomplete, run it again."
            )
        return sorted(set(listed.values())), listed
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS], {}
    other = sorted(path.name for path in folder.glob("*") if path.suffix in (".safetensors", ".bin"))
    raise FileNotFoundError(
        f"expected {WEIGHTS} or {INDEX} in {folder}, "
        f"found {', '.join(other) or 'neither'}; "
        "save the model as safetensors (save_pretrained does) and point to that folder."
    )


def read_entries(folder: str | Path) -> dict[str, Entry]:
    """Every tensor of a folder by name, shard after shard, headers checked and no data read.

    Raises FileNotFoundError or ValueError for missing, truncated or corrupt files, for a tensor stored in two
    files, and for an index that disagrees with the files; every name is listed.
    """
    folder = Path(folder)
    files, listed = _shards(folder)
    found: dict[str, Entry] = {}
    doubled: list[str] = []
    for file in files:
        entries, _ = read_header(folder / file)
        doubled += [f"{name} (in {found[name].path.name} and {file})" for name in entries if name in found]
        found.update(entries)
    if doubled:
        raise ValueError(f"{folder} stores tensors twice: {'; '.join(doubled)}; keep one file of each.")
    if listed:
        wrong = [
            f"{name} (index says {file})"
            for name, file in listed.items()
            if name not in found or found[name].path.name != file
        ]
        wrong += [f"{name} (not in the index)" for name in found if name not in listed]
        if wrong:
            raise ValueError(f"{folder / INDEX} disagrees with its files on {'; '.join(wrong)}; download both again.")
    return found


def companions(folder: str | Path) -> list[Path]:
    """Tokenizer files, chat template, generation config and licence of a folder."""
    return sorted(
        path
        for path in Path(folder).iterdir()
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in COMPANIONS)
    )


def _is_ours(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in OURS)


@contextlib.contextmanager
def replacing(folder: str | Path) -> Iterator[Path]:
    """A new folder beside `folder` to write into, which takes its place when the block ends without an error.

    A crash at any moment leaves the old folder whole; what it left of the new one is cleared by the next
    call. Where the file system can't exchange two folders (NFS), a crash between two renames leaves the old one
    as `.NAME.old`, and the next call puts it back. Raises FileExistsError when `folder` holds what is no part of
    a model, or another process writes it; warns where the file system has no locks.
    """
    folder = Path(folder).absolute()
    if folder.exists():
        if not folder.is_dir():
            raise FileExistsError(f"expected a folder at {folder}, got a file; choose a new folder.")
        strangers = sorted(path.name for path in folder.iterdir() if not _is_ours(path.name))
        if strangers:
            raise FileExistsError(
                f"{folder} would be replaced, but holds what is no part of a model export "
                f"({', '.join(strangers[:5])}); choose a new folder."
            )
    folder.parent.mkdir(parents=True, exist_ok=True)
    locked = folder.parent / f".{folder.name}.lock"
    partial = folder.parent / f".{folder.name}.partial"
    with locked.open("w") as held:
        try:
            warning = lock(held.fileno(), locked)
        except BlockingIOError as error:
            raise FileExistsError(f"another process is writing {folder}; wait for it to end.") from error
        if warning:
            warnings.warn(warning, stacklevel=3)  # of who opened the block
        try:
            if _aside(folder).exists() and not folder.exists():
                _aside(folder).rename(folder)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            yield partial
            _exchange(partial, folder)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise OSError(
                f"no space left while writing {folder}; free some space or choose another disk. "
                "What was there before is unchanged."
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            locked.unlink(missing_ok=True)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _exchange(new: Path, old: Path) -> None:
    """Put `new` in the place of `old` in one step; afterwards `new` holds what was old, if anything."""
    if not old.exists():
        new.rename(old)
        return
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename and rename(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE) == 0:
        return
    shutil.rmtree(_aside(old), ignore_errors=True)
    old.rename(_aside(old))
    new.rename(old)
    shutil.rmtree(_aside(old), ignore_errors=True)

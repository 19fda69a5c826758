"""The run folder: the config that it belongs to, and the lock that lets one run write in it."""

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from jaxrl.checkpointing.restore import run_steps, split_run
from jaxrl.reporting.files import delete_partial, write_text
from jaxrl.reporting.manifest import append_history, flatten_fields
from jaxrl.runtime.multihost import is_primary, run_on_primary, wait_until_visible
from jaxrl.training.run_spec import RunSpec
from models.file_lock import lock

# Fields that may change when a run is resumed. Output fields affect no number. Fields of storage and the guard affect
# none until the guard rejects a step, and have to change after the guard has ended a run. Layout fields affect rounding
# only.
_OUTPUT_FIELDS = ("workdir", "wandb", "compile_cache", "export", "output")
_STORAGE_FIELDS = ("checkpoint", "guard", "bounds", "rollouts")
_LAYOUT_FIELDS = ("devices", "mesh", "sampler", "layout", "remat", "attention", "unroll")
_FIRST_WRITES = ("config.json*.partial", ".lock")  # left by a run that is killed before config.json is complete


def check_start(spec: RunSpec) -> None:
    """Raises FileNotFoundError if a new run is to start from another run that does not exist."""
    if not spec.model.init_from or (spec.workdir / "config.json").exists():
        return
    try:
        split_run(spec.model.init_from)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"this run starts from {spec.model.init_from}: {error} Train the previous stage first, set "
            "--config.init_from=RUN, or --config.init_from= to start from the model."
        ) from error


def check_workdir(workdir: Path, config: Mapping[str, Any]) -> None:
    """Raises ValueError if the folder holds something else, naming every field that differs. Writes nothing."""
    if (workdir / "config.json").exists():
        differing = [
            f"{field} (there {old!r}, now {new!r})"
            for field, old, new in _changed_fields(workdir, config)
            if _group(field) not in (*_OUTPUT_FIELDS, *_STORAGE_FIELDS, *_LAYOUT_FIELDS)
        ]
        if differing:
            raise ValueError(
                f"{workdir} belongs to a run with another config: {'; '.join(differing)}. Choose another --workdir, or "
                "set these fields back."
            )
    elif workdir.exists() and not all(any(map(entry.match, _FIRST_WRITES)) for entry in workdir.iterdir()):
        raise ValueError(
            f"{workdir}: expected an empty or new folder, or a run folder, got files without a config.json; choose "
            "another --workdir."
        )


@contextmanager
def claim_run_folder(workdir: Path, config: Mapping[str, Any]) -> Iterator[list[str]]:
    """Own the run folder for the duration of the block: create and lock it, and write config.json.

    Yields warnings, and one line for each field that changed since the last start. Raises OSError if another process
    uses the folder or it cannot be written, and ValueError as `check_workdir`. Of several processes the primary one
    locks and writes, and the others wait for it.
    """
    with ExitStack() as stack:
        changes = run_on_primary(lambda: _claim(workdir, config, stack))
        if not is_primary():
            wait_until_visible(lambda: _is_visible(workdir / "config.json"), workdir / "config.json")
            check_workdir(workdir, config)  # every process must run the same command
        yield changes


def _claim(workdir: Path, config: Mapping[str, Any], stack: ExitStack) -> list[str]:
    check_workdir(workdir, config)
    warnings = _lock(workdir, stack)
    check_workdir(workdir, config)  # nobody else changes it from here on
    delete_partial(workdir, "*.json*")  # not *.html: reports are written by other commands too
    if changes := _describe_changes(workdir, config):
        newest = max(run_steps(workdir), default=0) if (workdir / "checkpoints").is_dir() else 0
        append_history(workdir, newest, changes, {})  # before config.json, which removes the difference
    write_text(workdir / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    return warnings + changes


def _is_visible(path: Path) -> bool:
    """Whether the file exists. Listing its folders first makes NFS ask the server instead of its cache."""
    for folder in (path.parent.parent, path.parent):
        with suppress(OSError):
            os.listdir(folder)
    return path.is_file()


def _lock(workdir: Path, stack: ExitStack) -> list[str]:
    """Hold RUN/.lock until the stack is closed or the process dies. Returns the warnings of `lock`.

    Raises BlockingIOError if another process holds it.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / ".lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    stack.callback(os.close, descriptor)
    try:
        warning = lock(descriptor, path)
    except BlockingIOError:
        holder = path.read_text(encoding="utf-8").strip() or "another process"
        raise BlockingIOError(
            f"{workdir} is in use by {holder}; wait for it to end, stop it, or choose another --workdir."
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())
    return [f"warning: {warning}"] if warning else []


def _changed_fields(workdir: Path, config: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Every field in which the stored config differs from this one, with both values."""
    stored = flatten_fields(json.loads((workdir / "config.json").read_text(encoding="utf-8")))
    current = flatten_fields(json.loads(json.dumps(config)))
    names = [name for name in sorted(stored.keys() | current.keys()) if stored.get(name) != current.get(name)]
    return [(name, stored.get(name, "absent"), current.get(name, "absent")) for name in names]


def _group(field: str) -> str:
    """The group of a dotted field: "guard" for guard.retries, "bounds" for stages.stage1.bounds.kl_max."""
    names = field.split(".")
    return names[2] if names[0] == "stages" and len(names) > 2 else names[0]


def _describe_changes(workdir: Path, config: Mapping[str, Any]) -> list[str]:
    if not (workdir / "config.json").exists():
        return []
    return [
        f"changed since the last start: {field} was {old!r}, is {new!r}"
        + ("; from here on numbers may differ in rounding" if _group(field) in _LAYOUT_FIELDS else "")
        for field, old, new in _changed_fields(workdir, config)
        if _group(field) not in _OUTPUT_FIELDS
    ]

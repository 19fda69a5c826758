"""The run folder: who may write in it, which config it belongs to, and on what the run was made."""

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from jaxrl.checkpointing.restore import run_steps, split_run
from jaxrl.reporting.files import drop_partial, write_text
from jaxrl.runtime.multihost import is_primary, run_on_primary, until_seen
from jaxrl.training.manifest import _flat, _put_down
from jaxrl.training.run_spec import RunSpec
from models.file_lock import lock

# Fields that may change between two starts of a run. What says where and how it is shown changes nothing; what says how
# often it is kept changes no number before the guard trips, and then its bounds and remedy are what has to be changed
# for the run to go on; how work is laid out over devices and memory changes rounding only.
_QUIET = ("workdir", "wandb", "compile_cache", "export", "output")
_KEEPING = ("checkpoint", "guard", "bounds", "rollouts")
_LAYOUT = ("devices", "mesh", "sampler", "layout", "remat", "attention", "unroll")
_FIRST_WRITES = ("config.json*.partial", ".lock")  # all that a run may leave that is killed before its config.json


def check_workdir(workdir: Path, config: Mapping[str, Any]) -> None:
    """Nothing is written; raises ValueError where the folder holds something else, naming every field that differs."""
    if (workdir / "config.json").exists():
        differing = [
            f"{field} (there {old!r}, now {new!r})"
            for field, old, new in _changed(workdir, config)
            if _part(field) not in (*_QUIET, *_KEEPING, *_LAYOUT)
        ]
        if differing:
            raise ValueError(
                f"{workdir} belongs to a run of another config: {'; '.join(differing)}. Choose another "
                "--workdir, or set these fields back."
            )
    elif workdir.exists() and not all(any(map(entry.match, _FIRST_WRITES)) for entry in workdir.iterdir()):
        raise ValueError(
            f"{workdir} is not empty and is no run folder (it has no config.json); choose another --workdir."
        )


@contextmanager
def claimed(workdir: Path, config: Mapping[str, Any]) -> Iterator[list[str]]:
    """While it lasts the folder is this run's alone: it is made and locked, and its config.json is this config.

    Gives a line for each field that is not as at the last start. Raises OSError where another process has the folder or
    it can't be written, and as `check_workdir`. Of several processes one locks and writes; the others wait for it.
    """
    with ExitStack() as stack:
        said = run_on_primary(lambda: _claim(workdir, config, stack))
        if not is_primary():
            until_seen(lambda: _listed(workdir / "config.json"), workdir / "config.json")
            check_workdir(workdir, config)  # each has to be the same command
        yield said


def _claim(workdir: Path, config: Mapping[str, Any], stack: ExitStack) -> list[str]:
    """What `claimed` does in the process that writes."""
    check_workdir(workdir, config)
    said = _lock(workdir, stack)
    check_workdir(workdir, config)  # nobody else changes it from here on
    drop_partial(workdir, "*.json*")  # a page is written by anybody
    if told := _told(workdir, config):
        _put_down(workdir, _newest(workdir), told, {})  # first: once config.json is this config nothing differs
    said += told
    write_text(workdir / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    return said


def _listed(path: Path) -> bool:
    """Whether the file is there. Its folders are listed first: NFS asks anew then, and may say no from memory else."""
    for folder in (path.parent.parent, path.parent):
        with suppress(OSError):
            os.listdir(folder)
    return path.is_file()


def _lock(workdir: Path, stack: ExitStack) -> list[str]:
    """Hold RUN/.lock until the stack ends or the process dies. Raises BlockingIOError where another process has it.

    Gives the warning of `lock`.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / ".lock"
    held = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    stack.callback(os.close, held)
    try:
        warning = lock(held, path)
    except BlockingIOError:
        holder = path.read_text(encoding="utf-8").strip() or "another process"
        raise BlockingIOError(
            f"{workdir} is in use: {holder} is making this run; wait for its end, stop it, or choose another --workdir."
        ) from None
    os.ftruncate(held, 0)
    os.write(held, f"process {os.getpid()} on {platform.node()}\n".encode())
    return [f"warning: {warning}"] if warning else []


def _changed(workdir: Path, config: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Every field that the stored config and this one do not have alike, with both values."""
    stored = _flat(json.loads((workdir / "config.json").read_text(encoding="utf-8")))
    wanted = _flat(json.loads(json.dumps(config)))
    names = [name for name in sorted(stored.keys() | wanted.keys()) if stored.get(name) != wanted.get(name)]
    return [(name, stored.get(name, "absent"), wanted.get(name, "absent")) for name in names]


def _part(field: str) -> str:
    """What a field belongs to: "guard" of guard.retries, and of a stage of several "bounds" of its bounds.kl_max."""
    names = field.split(".")
    return names[2] if names[0] == "stages" and len(names) > 2 else names[0]


def _told(workdir: Path, config: Mapping[str, Any]) -> list[str]:
    if not (workdir / "config.json").exists():
        return []
    return [
        f"not as at the last start: {field} was {old!r}, is {new!r}"
        + ("; from here on numbers may differ in rounding" if _part(field) in _LAYOUT else "")
        for field, old, new in _changed(workdir, config)
        if _part(field) not in _QUIET
    ]


def check_start(spec: RunSpec) -> None:
    """Raises FileNotFoundError where a run is to start from another run that is not there."""
    if not spec.init_from or (spec.workdir / "config.json").exists():
        return
    try:
        split_run(spec.init_from)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"this run starts from {spec.init_from}: {error} Train the stage before it first, set "
            "--config.init_from=RUN, or --config.init_from= to start from the model."
        ) from error


def _newest(workdir: Path) -> int:
    """The step after which a run goes on; 0 where it begins."""
    return max(run_steps(workdir), default=0) if (workdir / "checkpoints").is_dir() else 0

"""The run folder: who may write in it, which config it belongs to, and on what the run was made."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import jax

from jaxrl.learning.processes import leads, led, until_seen
from jaxrl.learning.run_params import origin, run_steps, split_run
from jaxrl.reporting.files import drop_partial, write_text
from jaxrl.running.settings import RunSpec
from models.locks import lock

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")
_TASKS = ("reasoning-gym",)  # its version decides questions and scores of the task gym; an extra
_TOLD = ("versions", "hardware", "commit")  # parts that may change the last digits
_SETTLED = ("rule", "problems", "weights")  # parts of a manifest without which a run can't be repeated
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
        differing = [f"{field} (there {old!r}, now {new!r})" for field, old, new in _changed(workdir, config)
                     if _part(field) not in (*_QUIET, *_KEEPING, *_LAYOUT)]
        if differing:
            raise ValueError(f"{workdir} belongs to a run of another config: {'; '.join(differing)}. Choose another "
                             "--workdir, or set these fields back.")
    elif workdir.exists() and not all(any(map(entry.match, _FIRST_WRITES)) for entry in workdir.iterdir()):
        raise ValueError(f"{workdir} is not empty and is no run folder (it has no config.json); choose another "
                         "--workdir.")


@contextmanager
def claimed(workdir: Path, config: Mapping[str, Any]) -> Iterator[list[str]]:
    """While it lasts the folder is this run's alone: it is made and locked, and its config.json is this config.

    Gives a line for each field that is not as at the last start. Raises OSError where another process has the folder or
    it can't be written, and as `check_workdir`. Of several processes one locks and writes; the others wait for it.
    """
    with ExitStack() as stack:
        said = led(lambda: _claim(workdir, config, stack))
        if not leads():
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
        raise BlockingIOError(f"{workdir} is in use: {holder} is making this run; wait for its end, stop it, or choose "
                              "another --workdir.") from None
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
    return [f"not as at the last start: {field} was {old!r}, is {new!r}"
            + ("; from here on numbers may differ in rounding" if _part(field) in _LAYOUT else "")
            for field, old, new in _changed(workdir, config) if _part(field) not in _QUIET]


def check_start(spec: RunSpec) -> None:
    """Raises FileNotFoundError where a run is to start from another run that is not there."""
    if not spec.init_from or (spec.workdir / "config.json").exists():
        return
    try:
        split_run(spec.init_from)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"this run starts from {spec.init_from}: {error} Train the stage before it first, set "
                                "--config.init_from=RUN, or --config.init_from= to start from the model.") from error


def make_manifest(rule: str, problems: Mapping[str, list[str]], weights: str, init_from: str) -> dict[str, Any]:
    """Versions, commit, hardware, rule, a hash of the problems (given as ids) by use, the first weights' fingerprint,
    and the checkpoint that they are of (empty: the model's)."""
    device = jax.devices()[0]
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    for name in _TASKS:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "versions": {"python": platform.python_version()} | versions,
        "commit": _commit(),
        "hardware": {"platform": device.platform, "kind": device.device_kind, "devices": jax.device_count(),
                     "processor": platform.processor() or platform.machine()},
        "rule": rule,
        "weights": weights,
        "init_from": init_from,
        "problems": {use: {"count": len(ids), "hash": hashlib.blake2b("\n".join(ids).encode()).hexdigest()[:32]}
                    for use, ids in problems.items()},
    }


def write_manifest(workdir: Path, manifest: Mapping[str, Any], step: int) -> list[str]:
    """`manifest.json` of a run that begins. Of one that goes on after `step` the first stays, and where versions,
    hardware or commit are others, its `history` gets an entry. Gives a line for each.

    Raises ValueError as `check_manifest`.
    """
    path = workdir / "manifest.json"
    if not path.is_file():
        if leads():
            write_text(path, json.dumps(manifest, indent=2) + "\n")
        return []
    lines = check_manifest(workdir, manifest)
    if leads() and lines:
        _put_down(workdir, step, lines, {part: manifest[part] for part in _TOLD})
    return lines


def _put_down(workdir: Path, step: int, changes: Sequence[str], told: Mapping[str, Any]) -> None:
    """An entry in the manifest's history, if there is a manifest. told: parts that are others from here on."""
    path = workdir / "manifest.json"
    if path.is_file():
        first = json.loads(path.read_text(encoding="utf-8"))
        history = [*first.get("history", ()), {"step": step, "changes": [*changes]} | told]
        write_text(path, json.dumps(first | {"history": history}, indent=2) + "\n")


def _newest(workdir: Path) -> int:
    """The step after which a run goes on; 0 where it begins."""
    return max(run_steps(workdir), default=0) if (workdir / "checkpoints").is_dir() else 0


def check_manifest(workdir: Path, manifest: Mapping[str, Any]) -> list[str]:
    """What is not as the stored manifest of a run that goes on has it, in lines; none where there is no manifest yet.

    Raises ValueError where rule, problems or first weights differ: it would not be the same run.
    """
    path = workdir / "manifest.json"
    if not path.is_file():
        return []
    then = json.loads(path.read_text(encoding="utf-8"))
    latest = then | {part: entry[part] for entry in then.get("history", ()) for part in _TOLD
                     if part in entry}
    return compare_manifests(latest | {"history": []}, manifest, "this run can't go on")


def manifest_weights(workdir: Path) -> str:
    """The fingerprint that the manifest of a run that has begun holds; empty where there is none."""
    path = workdir / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8"))["weights"] if path.is_file() else ""


def read_past_run(manifest: Path, workdir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest of a past run, and the config.json beside it with `workdir` as its folder, from the checkpoint that
    was the newest of `init_from` then.

    Raises FileNotFoundError or ValueError where one of them can't be read, or where `workdir` is the past run's own.
    """
    config = manifest.parent / "config.json"
    for path in (manifest, config):
        if not path.is_file():
            raise FileNotFoundError(f"expected the manifest of a run with its config.json beside it, found no {path}.")
    if workdir.resolve() == manifest.parent.resolve():
        raise ValueError(f"--workdir={workdir} is the run that is to be repeated; choose another one.")
    try:
        then, fields = (json.loads(path.read_text(encoding="utf-8")) for path in (manifest, config))
        missing = {"versions", "commit", "hardware", *_SETTLED} - then.keys()
    except (AttributeError, ValueError) as error:
        raise ValueError(f"{manifest} and its config.json: expected JSON of a past run ({error}).") from error
    if missing or "task" not in fields:
        raise ValueError(f"{manifest} and its config.json: expected those of a run of jaxrl.train, "
                         f"missing {', '.join(sorted(missing)) or 'task'}.")
    return then, fields | {"workdir": str(workdir), "init_from": origin(manifest.parent, fields["init_from"])}


def compare_manifests(
    then: Mapping[str, Any], now: Mapping[str, Any], refusal: str = "the past run can't be repeated"
) -> list[str]:
    """One line for each difference in versions, hardware and commit, which may change the last digits of numbers, and
    for each change that the past run had on its way.

    Raises ValueError, which begins with `refusal`, where rule, problems or first weights differ: the numbers would be
    others.
    """
    wrong = [f"{name} (then {old!r}, now {new!r})" for name, old, new in _differing(then, now, _SETTLED)]
    if wrong:
        raise ValueError(f"{refusal}: {'; '.join(wrong)}. Use the model it started from and the "
                         f"commit it was made with, {then['commit'] or 'which its manifest does not know'}.")
    changed = [f"the past run went on after step {entry['step']} with a change, {change}"
               for entry in then.get("history", ()) for change in entry["changes"]]
    return changed + [f"not as then: {name} was {old!r}, is {new!r}" for name, old, new in _differing(then, now, _TOLD)]


def _differing(then: Mapping[str, Any], now: Mapping[str, Any], parts: Sequence[str]) -> list[tuple[str, Any, Any]]:
    old, new = ({part: manifest[part] for part in parts} for manifest in (then, now))
    old, new = _flat(old), _flat(new)
    names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    return [(name, old.get(name, "absent"), new.get(name, "absent")) for name in names]


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    found = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return found


def _commit() -> str:
    """The commit of the source tree, with a plus sign where files differ from it; empty outside a checkout."""
    home = Path(__file__).resolve().parents[2]
    if not (home / ".git").exists():
        return ""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=home, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=home, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")

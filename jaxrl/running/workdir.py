"""The run folder: who may write in it, which config it belongs to, and on what the run was made."""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxrl.learning.processes import leads, shared
from jaxrl.learning.run_params import split_run
from jaxrl.reporting.files import write_text
from jaxrl.running.settings import RunSpec

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")
_SETTLED = ("rule", "problems", "weights")  # parts of a manifest without which a run can't be repeated
# Fields that say where and how a run is shown or kept; changing them leaves every number as it was. That holds for the
# guard's until it trips; then its bounds and remedy are what has to be changed for the run to go on.
_FREE = ("workdir", "wandb", "compile_cache", "export", "checkpoint", "guard", "output")
_FIRST_WRITES = ("config.json.partial",)  # all that a run may leave that is killed before its config.json is whole


def check_workdir(workdir: Path, config: Mapping[str, Any]) -> None:
    """Nothing is written; raises ValueError where the folder holds something else, naming every field that differs."""
    path = workdir / "config.json"
    if path.exists():
        stored = _flat(json.loads(path.read_text(encoding="utf-8")))
        wanted = _flat(json.loads(json.dumps(config)))
        differing = [
            f"{field} (there {stored.get(field, 'absent')!r}, now {wanted.get(field, 'absent')!r})"
            for field in sorted(stored.keys() | wanted.keys())
            if stored.get(field) != wanted.get(field) and field.split(".")[0] not in _FREE
        ]
        if differing:
            raise ValueError(f"{workdir} belongs to a run of another config: {'; '.join(differing)}. Choose another "
                             "--workdir, or set these fields back.")
    elif workdir.exists() and any(entry.name not in _FIRST_WRITES for entry in workdir.iterdir()):
        raise ValueError(f"{workdir} is not empty and is no run folder (it has no config.json); choose another "
                         "--workdir.")


def claim_workdir(workdir: Path, config: Mapping[str, Any]) -> None:
    """Make the folder and write its config.json. Raises OSError where that can't be done, and as `check_workdir`.

    Of several processes one writes; the others wait for it.
    """
    check_workdir(workdir, config)
    if leads():
        write_text(workdir / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    if not shared(True) or not (workdir / "config.json").is_file():
        raise OSError(f"process {jax.process_index()} does not find {workdir / 'config.json'}, which process 0 has "
                      "written; choose a --workdir in a file system that all hosts share.")


def check_start(spec: RunSpec) -> None:
    """Raises FileNotFoundError where a run is to start from another run that is not there."""
    if not spec.init_from or (spec.workdir / "config.json").exists():
        return
    try:
        split_run(spec.init_from)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"this run starts from {spec.init_from}: {error} Train the stage before it first, set "
                                "--config.init_from=RUN, or --config.init_from= to start from the model.") from error


def make_manifest(rule: str, problems: Mapping[str, list[str]], weights: str) -> dict[str, Any]:
    """Versions, commit, hardware, rule, a hash of the problems (given as ids) by use, and the first weights'
    fingerprint."""
    device = jax.devices()[0]
    return {
        "versions": {"python": platform.python_version()} | {
            name: importlib.metadata.version(name) for name in _PACKAGES},
        "commit": _commit(),
        "hardware": {"platform": device.platform, "kind": device.device_kind, "devices": jax.device_count(),
                     "processor": platform.processor() or platform.machine()},
        "rule": rule,
        "weights": weights,
        "problems": {use: {"count": len(ids), "hash": hashlib.blake2b("\n".join(ids).encode()).hexdigest()[:32]}
                    for use, ids in problems.items()},
    }


def write_manifest(workdir: Path, manifest: Mapping[str, Any]) -> None:
    """`manifest.json` of the run."""
    if leads():
        write_text(workdir / "manifest.json", json.dumps(manifest, indent=2) + "\n")


def manifest_weights(workdir: Path) -> str:
    """The fingerprint that the manifest of a run that has begun holds; empty where there is none."""
    path = workdir / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8"))["weights"] if path.is_file() else ""


def read_past_run(manifest: Path, workdir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest of a past run, and the config.json beside it with `workdir` as its folder.

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
    return then, fields | {"workdir": str(workdir)}


def compare_manifests(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each difference in versions, hardware and commit, which may change the last digits of numbers.

    Raises ValueError where rule, problems or first weights differ: the numbers would be others.
    """
    wrong = [f"{name} (then {old!r}, now {new!r})" for name, old, new in _differing(then, now, _SETTLED)]
    if wrong:
        raise ValueError(f"the past run can't be repeated: {'; '.join(wrong)}. Use the model it started from and the "
                         f"commit it was made with, {then['commit'] or 'which its manifest does not know'}.")
    return [f"not as then: {name} was {old!r}, is {new!r}"
            for name, old, new in _differing(then, now, ("versions", "hardware", "commit"))]


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

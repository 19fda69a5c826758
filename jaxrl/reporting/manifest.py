"""The manifest of a run: what its numbers depend on besides its config."""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

from jaxrl.checkpointing.restore import resolved_init_from
from jaxrl.reporting.files import write_text
from jaxrl.runtime.multihost import is_primary

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")
_TASK_PACKAGES = ("reasoning-gym",)  # optional; its version decides the questions and scores of the task "gym"
_ENVIRONMENT = ("versions", "hardware", "commit")  # may change the last digits of a number
_IDENTITY = ("rule", "problems", "weights")  # decide what the run is


def make_manifest(rule: str, problems: Mapping[str, list[str]], weights: str, init_from: str) -> dict[str, Any]:
    """Versions, commit, hardware, rule, hashes of the problems, and the fingerprint of the weights before step 1.

    problems: ids by use, such as "held_out" or a stage's name. init_from: checkpoint of the weights; empty: the model.
    """
    device = jax.devices()[0]
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    for name in _TASK_PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "versions": {"python": platform.python_version()} | versions,
        "commit": _commit(),
        "hardware": {
            "platform": device.platform,
            "kind": device.device_kind,
            "devices": jax.device_count(),
            "processor": platform.processor() or platform.machine(),
        },
        "rule": rule,
        "weights": weights,
        "init_from": init_from,
        "problems": {
            use: {"count": len(ids), "hash": hashlib.blake2b("\n".join(ids).encode()).hexdigest()[:32]}
            for use, ids in problems.items()
        },
    }


def write_manifest(workdir: Path, manifest: Mapping[str, Any], step: int) -> list[str]:
    """Write `manifest.json` when a run starts. Returns one line for each difference when it resumes.

    A run that resumes after `step` keeps its first manifest; if versions, hardware or commit differ, the `history` of
    the manifest gets an entry. Raises ValueError as `check_manifest`.
    """
    path = workdir / "manifest.json"
    if not path.is_file():
        if is_primary():
            write_text(path, json.dumps(manifest, indent=2) + "\n")
        return []
    lines = check_manifest(workdir, manifest)
    if is_primary() and lines:
        append_history(workdir, step, lines, {part: manifest[part] for part in _ENVIRONMENT})
    return lines


def append_history(workdir: Path, step: int, changes: Sequence[str], parts: Mapping[str, Any]) -> None:
    """Add an entry to the manifest's history, if there is a manifest. parts: the parts that change from here on."""
    path = workdir / "manifest.json"
    if path.is_file():
        first = json.loads(path.read_text(encoding="utf-8"))
        history = [*first.get("history", ()), {"step": step, "changes": [*changes]} | parts]
        write_text(path, json.dumps(first | {"history": history}, indent=2) + "\n")


def check_manifest(workdir: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Compare the manifest of a resumed run with the stored one, if any. Returns one line for each difference.

    Raises ValueError if rule, problems or first weights differ: it would not be the same run.
    """
    path = workdir / "manifest.json"
    if not path.is_file():
        return []
    stored = json.loads(path.read_text(encoding="utf-8"))
    latest = stored | {
        part: entry[part] for entry in stored.get("history", ()) for part in _ENVIRONMENT if part in entry
    }
    return compare_manifests(latest | {"history": []}, manifest, "this run cannot be resumed")


def manifest_weights(workdir: Path) -> str:
    """The fingerprint of the first weights in the stored manifest; empty if there is none yet."""
    path = workdir / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8"))["weights"] if path.is_file() else ""


def read_past_run(manifest: Path, workdir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Manifest and config of a run to reproduce, with `workdir` as its folder and `init_from` resolved as it was.

    Raises FileNotFoundError or ValueError if one of them cannot be read, or if `workdir` is that run's own folder.
    """
    config = manifest.parent / "config.json"
    for path in (manifest, config):
        if not path.is_file():
            raise FileNotFoundError(f"expected the manifest of a run with its config.json beside it, got no {path}.")
    if workdir.resolve() == manifest.parent.resolve():
        raise ValueError(f"--workdir={workdir} is the folder of the run to reproduce; choose another one.")
    try:
        stored, fields = (json.loads(path.read_text(encoding="utf-8")) for path in (manifest, config))
        missing = {"versions", "commit", "hardware", *_IDENTITY} - stored.keys()
    except (AttributeError, ValueError) as error:
        raise ValueError(f"{manifest} and its config.json: expected JSON of a run ({error}).") from error
    if missing or "task" not in fields:
        raise ValueError(
            f"{manifest} and its config.json: expected those of a run of jaxrl.train, "
            f"missing {', '.join(sorted(missing)) or 'task'}."
        )
    return stored, fields | {
        "workdir": str(workdir),
        "init_from": resolved_init_from(manifest.parent, fields["init_from"]),
    }


def compare_manifests(
    then: Mapping[str, Any], now: Mapping[str, Any], refusal: str = "the run cannot be reproduced"
) -> list[str]:
    """One line for each difference in versions, hardware and commit, and for each entry of the earlier run's history.

    These may change the last digits of numbers. Raises ValueError, beginning with `refusal`, if rule, problems or first
    weights differ: the numbers would be different ones.
    """
    wrong = [f"{name} (then {old!r}, now {new!r})" for name, old, new in _differing(then, now, _IDENTITY)]
    if wrong:
        raise ValueError(
            f"{refusal}: {'; '.join(wrong)}. Use the model it started from and the "
            f"commit it was made with, {then['commit'] or 'which its manifest does not have'}."
        )
    changed = [
        f"the earlier run was resumed after step {entry['step']} with a change: {change}"
        for entry in then.get("history", ())
        for change in entry["changes"]
    ]
    differences = _differing(then, now, _ENVIRONMENT)
    return changed + [f"changed since: {name} was {old!r}, is {new!r}" for name, old, new in differences]


def _differing(then: Mapping[str, Any], now: Mapping[str, Any], parts: Sequence[str]) -> list[tuple[str, Any, Any]]:
    old, new = ({part: manifest[part] for part in parts} for manifest in (then, now))
    old, new = flatten_fields(old), flatten_fields(new)
    names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    return [(name, old.get(name, "absent"), new.get(name, "absent")) for name in names]


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


def flatten_fields(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted names."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    found = {}
    for key, value in tree.items():
        found |= flatten_fields(value, f"{prefix}.{key}" if prefix else key)
    return found

"""The manifest of a run: what its numbers rest on."""

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

from jaxrl.checkpointing.restore import origin
from jaxrl.reporting.files import write_text
from jaxrl.runtime.multihost import is_primary

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")


_TASKS = ("reasoning-gym",)  # its version decides questions and scores of the task gym; an extra


_TOLD = ("versions", "hardware", "commit")  # parts that may change the last digits


_SETTLED = ("rule", "problems", "weights")  # parts of a manifest without which a run can't be repeated


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
        "hardware": {
            "platform": device.platform,
            "kind": device.device_kind,
            "devices": jax.device_count(),
            "processor": platform.processor() or platform.components(),
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
    """`manifest.json` of a run that begins. Of one that goes on after `step` the first stays, and where versions,
    hardware or commit are others, its `history` gets an entry. Gives a line for each.

    Raises ValueError as `check_manifest`.
    """
    path = workdir / "manifest.json"
    if not path.is_file():
        if is_primary():
            write_text(path, json.dumps(manifest, indent=2) + "\n")
        return []
    lines = check_manifest(workdir, manifest)
    if is_primary() and lines:
        _put_down(workdir, step, lines, {part: manifest[part] for part in _TOLD})
    return lines


def _put_down(workdir: Path, step: int, changes: Sequence[str], told: Mapping[str, Any]) -> None:
    """An entry in the manifest's history, if there is a manifest. told: parts that are others from here on."""
    path = workdir / "manifest.json"
    if path.is_file():
        first = json.loads(path.read_text(encoding="utf-8"))
        history = [*first.get("history", ()), {"step": step, "changes": [*changes]} | told]
        write_text(path, json.dumps(first | {"history": history}, indent=2) + "\n")


def check_manifest(workdir: Path, manifest: Mapping[str, Any]) -> list[str]:
    """What is not as the stored manifest of a run that goes on has it, in lines; none where there is no manifest yet.

    Raises ValueError where rule, problems or first weights differ: it would not be the same run.
    """
    path = workdir / "manifest.json"
    if not path.is_file():
        return []
    then = json.loads(path.read_text(encoding="utf-8"))
    latest = then | {part: entry[part] for entry in then.get("history", ()) for part in _TOLD if part in entry}
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
        raise ValueError(
            f"{manifest} and its config.json: expected those of a run of jaxrl.train, "
            f"missing {', '.join(sorted(missing)) or 'task'}."
        )
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
        raise ValueError(
            f"{refusal}: {'; '.join(wrong)}. Use the model it started from and the "
            f"commit it was made with, {then['commit'] or 'which its manifest does not know'}."
        )
    changed = [
        f"the past run went on after step {entry['step']} with a change, {change}"
        for entry in then.get("history", ())
        for change in entry["changes"]
    ]
    return changed + [f"not as then: {name} was {old!r}, is {new!r}" for name, old, new in _differing(then, now, _TOLD)]


def _differing(then: Mapping[str, Any], now: Mapping[str, Any], parts: Sequence[str]) -> list[tuple[str, Any, Any]]:
    old, new = ({part: manifest[part] for part in parts} for manifest in (then, now))
    old, new = _flat(old), _flat(new)
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


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    found = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return found

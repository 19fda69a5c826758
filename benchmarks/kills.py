"""Exact resume after real kills: SIGKILL at random moments, the same command again, and no difference at the end.

    python benchmarks/kills.py [--kills=20] [--seed=0] [--full] [--folder=FOLDER] [--config.field=value ...]

A reference run is not disturbed. Other runs are killed, restarted and killed again. Each run that ends is compared with
the reference, and the next one starts, until `--kills` kills are done. The moments are random (--seed), of all KINDS:
during start-up; anywhere in a step; while the first file, a rollout file, a line of metrics, a checkpoint, an
evaluation or the export is written; and while an old checkpoint is renamed or its files are deleted. Without --full the
stages of --config have a few short steps. Exit status 1 if there is any difference.
"""

import argparse
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxrl.checkpointing.restore import run_steps
from jaxrl.reporting.metrics import deterministic_part
from jaxrl.reporting.writers import read_metrics

ROOT = Path(__file__).parents[1]
# Without --full: stages of four steps, evaluations in between, checkpoints that displace each other.
SHORT = {
    "evaluation.samples": 1,
    "evaluation.max_new_tokens": 48,
    "evaluation.every": 3,
    "checkpoint.every": 2,
    "evaluation.pool.p2": 4,
    "evaluation.pool.p3": 12,
    "evaluation.pool.p4": 0,
    "evaluation.pool.p5": 0,
    "layout.multiple": 64,
    "layout.ratio": 2.0,
    **{
        f"stages.stage{stage}.{field}": value
        for stage in (1, 2, 3)
        for field, value in {
            "steps": 4,
            "prompts": 4,
            "samples": 4,
            "pool.p3": 24,
            "sampling.max_new_tokens": 96,
            "bounds.bad_format_max": 0,
        }.items()
    },
}
# The files that appear (or grow) at each kind of moment; "start" has none.
FIRST = "first file"  # only in an empty run folder
DELETION = "file deletion"  # the only kind with a decreasing number of files
KINDS = {
    "start": None,
    FIRST: "config.json*",
    "step": "metrics.jsonl",
    "rollout file": "rollouts/*.partial",
    "metrics line": "metrics.jsonl",
    "checkpoint": "checkpoints/*.orbax-checkpoint-tmp*",
    "rename": "checkpoints/deleted/*",
    DELETION: "checkpoints/deleted/*/**/*",
    "evaluation": "evaluations/*.partial",
    "export": ".export.partial",
}
POLL_SECONDS = 0.0005


class Timing(NamedTuple):
    """Seconds of the reference run until its first line of metrics, and per step."""

    start: float
    step: float


class Moment(NamedTuple):
    """When to kill: `delay` seconds after the files of this kind have appeared for the `count`-th time."""

    kind: str
    count: int
    delay: float


def random_moment(kind: str, timing: Timing, rng: random.Random) -> Moment:
    """A random moment of this kind. Writing a file takes milliseconds, a checkpoint some tenths of a second."""
    longest = {
        "start": timing.start,
        "step": timing.step,
        "checkpoint": 0.3,
        "export": 0.05,
        FIRST: 0.002,
        DELETION: 0.0005,
    }.get(kind, 0.004)
    last = {"start": 1, FIRST: 1, "evaluation": 2, "export": 1, "rename": 2, DELETION: 2}.get(kind, 3)
    return Moment(kind, rng.randint(1, last), rng.uniform(0, longest))


def observe(workdir: Path, kind: str) -> int:
    """0 if the files of this kind do not exist, else a number that increases when they appear again."""
    pattern = KINDS[kind]
    sizes = [path.stat().st_size for path in workdir.glob(pattern)] if pattern else [1]
    if kind == DELETION:
        return -len(sizes)
    return max(sizes, default=0) if pattern == "metrics.jsonl" else len(sizes)


def kill_at(process: subprocess.Popen, workdir: Path, moment: Moment) -> bool:
    """Kill the process at the moment; False if it ended before."""
    seen, before = 0, 0 if moment.kind == "start" else observe(workdir, moment.kind)
    while process.poll() is None:
        try:
            now = observe(workdir, moment.kind)
        except FileNotFoundError:  # renamed after the folder was listed
            continue
        seen, before = seen + (now > before), now
        if seen == moment.count:
            time.sleep(moment.delay)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                return process.wait() == -signal.SIGKILL
        time.sleep(POLL_SECONDS)
    return False


def remains(workdir: Path) -> tuple[str, str, str]:
    """What a kill left: the last line of metrics, the last checkpoint, and incomplete files."""
    records = read_metrics(workdir / "metrics.jsonl")
    checkpoints = run_steps(workdir) if (workdir / "checkpoints").is_dir() else []
    kept = {None, KINDS[FIRST], KINDS["step"], KINDS[DELETION]}  # patterns of complete files
    patterns = {"*.partial", *KINDS.values()} - kept
    incomplete = sorted({str(path.relative_to(workdir)) for pattern in patterns for path in workdir.glob(pattern)})
    metrics = workdir / "metrics.jsonl"
    incomplete += ["metrics.jsonl"] if metrics.exists() and not metrics.read_bytes().endswith(b"\n") else []
    return (
        str(records[-1]["step"]) if records else "-",
        str(checkpoints[-1]) if checkpoints else "-",
        ", ".join(incomplete) or "-",
    )


def differences(workdir: Path, whole: Path) -> list[str]:
    """What differs between two runs: lines of metrics (without clocks), every array of the last checkpoint (with the
    optimizer's moments), and rollouts, evaluations and exported files byte by byte."""
    found = []
    lines = [
        [deterministic_part(record) for record in read_metrics(folder / "metrics.jsonl")] for folder in (workdir, whole)
    ]
    if [record["step"] for record in lines[0]] != [record["step"] for record in lines[1]]:
        found.append("steps of metrics.jsonl")
    else:
        found += [
            f"metrics.jsonl, step {first['step']}" for first, second in zip(*lines, strict=True) if first != second
        ]
    for part in ("rollouts", "evaluations", "export"):
        files = [{path.name: path.read_bytes() for path in (folder / part).glob("*")} for folder in (workdir, whole)]
        found += [f"{part}/{name}" for name in _unequal(*files)]
    states = [{name: leaf.tobytes() for name, leaf in last_state(folder).items()} for folder in (workdir, whole)]
    return found + [f"last checkpoint, {name}" for name in _unequal(*states)]


def _unequal(workdir: dict[str, bytes], theirs: dict[str, bytes]) -> list[str]:
    return [name for name in sorted(workdir.keys() | theirs.keys()) if workdir.get(name) != theirs.get(name)]


def last_state(workdir: Path) -> dict[str, np.ndarray]:
    """The arrays of the newest checkpoint, by path."""
    folder = workdir.absolute() / "checkpoints" / str(run_steps(workdir)[-1]) / "state"
    reader = ocp.PyTreeCheckpointHandler()
    kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), reader.metadata(folder).tree)
    leaves, _ = jax.tree_util.tree_flatten_with_path(
        reader.restore(folder, args=ocp.args.PyTreeRestore(restore_args=kinds))
    )
    reader.close()
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def summary(workdir: Path) -> str:
    """What was compared of a run."""
    rollouts, exported = (len(list((workdir / part).glob("*"))) for part in ("rollouts", "export"))
    lines, arrays = len(read_metrics(workdir / "metrics.jsonl")), len(last_state(workdir))
    return (
        f"{workdir.name}: {lines} lines of metrics, {rollouts} rollout files, {exported} exported files, {arrays} "
        "arrays of the last checkpoint"
    )


def start(config: str, workdir: Path, fields: list[str]) -> subprocess.Popen:
    """Start the command; its output is appended to a log beside the run folder."""
    with open(workdir.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "jaxrl.train", f"--config={config}", f"--workdir={workdir}", *fields],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def finish(process: subprocess.Popen, workdir: Path) -> None:
    """Wait for the end of a run. Raises SystemExit with the last lines of its log if it failed."""
    if process.wait():
        lines = workdir.with_suffix(".log").read_text(encoding="utf-8", errors="replace").splitlines()
        sys.exit("\n".join([f"{workdir} ended with status {process.returncode}; its last lines:", *lines[-12:]]))


def reference_run(config: str, workdir: Path, fields: list[str]) -> Timing:
    """Train the reference run."""
    process, began = start(config, workdir, fields), time.monotonic()
    while process.poll() is None and not observe(workdir, "step"):
        time.sleep(POLL_SECONDS)
    first = time.monotonic() - began
    finish(process, workdir)
    steps = [record["time/step"] for record in read_metrics(workdir / "metrics.jsonl") if record["step"]]
    return Timing(first, statistics.median(steps))


def main() -> int:
    """Print a table row per kill and a line per run; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/three_stage.py:tiny")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--full", action="store_true", help="the config unchanged, without the short steps")
    parser.add_argument("--folder", help="where the runs are written (default: a temporary folder)")
    arguments, fields = parser.parse_known_args()
    if arguments.folder:
        Path(arguments.folder).mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="kills-", dir=arguments.folder))
    shared = {} if arguments.full else SHORT
    fields = [
        f"--config.{name}={value}"
        for name, value in {"wandb.mode": "off", "compile_cache": home / "compiled", **shared}.items()
    ] + fields
    rng, whole = random.Random(arguments.seed), home / "whole"
    timing = reference_run(arguments.config, whole, fields)
    print(
        f"{arguments.config}, seed {arguments.seed}; reference run: {timing.start:.1f} s to the first line of metrics, "
        f"{timing.step:.2f} s per step\n"
    )
    print("| kill | run | moment | delay | last line | checkpoint | incomplete |\n|---|---|---|---|---|---|---|")
    kinds = [kind for _ in range(arguments.kills) for kind in rng.sample(list(KINDS), len(KINDS))][: arguments.kills]
    done, results, failed = 0, [], False
    while kinds or (home / f"run{len(results)}").exists():
        workdir = home / f"run{len(results)}"
        kind = next((kind for kind in kinds if kind != FIRST or not workdir.exists()), None)
        process = start(arguments.config, workdir, fields)
        moment = random_moment(kind, timing, rng) if kind else None
        if moment and kill_at(process, workdir, moment):
            done += 1
            kinds.remove(kind)
            cells = (str(done), str(len(results)), moment.kind, f"{moment.delay:.3f} s", *remains(workdir))
            print(f"| {' | '.join(cells)} |", flush=True)
            continue
        finish(process, workdir)
        found = differences(workdir, whole)
        failed |= bool(found)
        results.append(f"{summary(workdir)}: {len(found)} differences{''.join(f', {name}' for name in found)}")
        shutil.rmtree(workdir)
    print("\n" + "\n".join(results))
    shutil.rmtree(home)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

"""Exact resume with real kills: SIGKILL at random moments, the same command again, and at the end nothing may differ.

    python benchmarks/kills.py [--kills=20] [--seed=0] [--full] [--folder=FOLDER] [--config.field=value ...]

One run is left in peace. Others are killed, started again and killed again; one that reaches its end is compared with
the first, and the next is begun, until so many kills are done. Moments are drawn from --seed in turn from KINDS: while
the program starts, anywhere in a step, while the run's first file, a rollout file, a line of metrics, a checkpoint, an
evaluation or the export is written, and while an old checkpoint is deleted: when it is set aside, and while its files
go. Without --full the stages of --config have a few short steps. Exit status 1 on any difference.
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
# What --full leaves out: stages of four steps, evaluations between, checkpoints that take turns.
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
# What appears in the run folder (or grows) while a kind of moment lasts; "start" needs no sign.
FIRST = "first file"  # only of a run that has not begun
GOING = "files going"  # the only kind whose files get fewer
KINDS = {
    "start": None,
    FIRST: "config.json*",
    "step": "metrics.jsonl",
    "rollout file": "rollouts/*.partial",
    "metrics line": "metrics.jsonl",
    "checkpoint": "checkpoints/*.orbax-checkpoint-tmp*",
    "deletion": "checkpoints/deleted/*",
    GOING: "checkpoints/deleted/*/**/*",
    "evaluation": "evaluations/*.partial",
    "export": ".export.partial",
}
LOOK = 0.0005  # seconds between two looks at the folder


class Pace(NamedTuple):
    """Seconds that the undisturbed run took until its first line, and for a step."""

    start: float
    step: float


class Moment(NamedTuple):
    """When to kill: so many seconds after the `sign`-th time that the kind's sign showed."""

    kind: str
    sign: int
    delay: float


def draw(kind: str, pace: Pace, chance: random.Random) -> Moment:
    """A moment of this kind. A file's writing takes milliseconds, a checkpoint's some tenths of a second."""
    longest = {
        "start": pace.start,
        "step": pace.step,
        "checkpoint": 0.3,
        "export": 0.05,
        FIRST: 0.002,
        GOING: 0.0005,
    }.get(kind, 0.004)
    last = {"start": 1, FIRST: 1, "evaluation": 2, "export": 1, "deletion": 2, GOING: 2}.get(kind, 3)
    return Moment(kind, chance.randint(1, last), chance.uniform(0, longest))


def shown(workdir: Path, kind: str) -> int:
    """0 where the kind's sign is not there, else a number that rises when it shows anew."""
    pattern = KINDS[kind]
    sizes = [path.stat().st_size for path in workdir.glob(pattern)] if pattern else [1]
    if kind == GOING:
        return -len(sizes)
    return max(sizes, default=0) if pattern == "metrics.jsonl" else len(sizes)


def kill_at(process: subprocess.Popen, workdir: Path, moment: Moment) -> bool:
    """Kill the process at the moment; False where it ended before."""
    seen, before = 0, 0 if moment.kind == "start" else shown(workdir, moment.kind)
    while process.poll() is None:
        try:
            now = shown(workdir, moment.kind)
        except FileNotFoundError:  # renamed between the listing and the look
            continue
        seen, before = seen + (now > before), now
        if seen == moment.sign:
            time.sleep(moment.delay)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                return process.wait() == -signal.SIGKILL
        time.sleep(LOOK)
    return False


def left(workdir: Path) -> tuple[str, str, str]:
    """What a kill left: last line, last whole checkpoint, and what is half written, or half deleted."""
    records = read_metrics(workdir / "metrics.jsonl")
    checkpoints = run_steps(workdir) if (workdir / "checkpoints").is_dir() else []
    patterns = {"*.partial", *KINDS.values()} - {None, KINDS[FIRST], KINDS["step"], KINDS[GOING]}  # but what stays
    half = sorted({str(path.relative_to(workdir)) for pattern in patterns for path in workdir.glob(pattern)})
    metrics = workdir / "metrics.jsonl"
    half += ["metrics.jsonl"] if metrics.exists() and not metrics.read_bytes().endswith(b"\n") else []
    return (
        str(records[-1]["step"]) if records else "-",
        str(checkpoints[-1]) if checkpoints else "-",
        ", ".join(half) or "-",
    )


def differences(mine: Path, whole: Path) -> list[str]:
    """What of a run differs from another: lines of metrics (without clocks), rollouts, evaluations and exported files
    byte by byte, and every array of the last checkpoint, moments included."""
    found = []
    lines = [
        [deterministic_part(record) for record in read_metrics(folder / "metrics.jsonl")] for folder in (mine, whole)
    ]
    if [record["step"] for record in lines[0]] != [record["step"] for record in lines[1]]:
        found.append("steps of metrics.jsonl")
    else:
        found += [
            f"metrics.jsonl, step {first['step']}" for first, second in zip(*lines, strict=True) if first != second
        ]
    for part in ("rollouts", "evaluations", "export"):
        files = [{path.name: path.read_bytes() for path in (folder / part).glob("*")} for folder in (mine, whole)]
        found += [f"{part}/{name}" for name in _unequal(*files)]
    states = [{name: leaf.tobytes() for name, leaf in last_state(folder).items()} for folder in (mine, whole)]
    return found + [f"last checkpoint, {name}" for name in _unequal(*states)]


def _unequal(mine: dict[str, bytes], theirs: dict[str, bytes]) -> list[str]:
    return [name for name in sorted(mine.keys() | theirs.keys()) if mine.get(name) != theirs.get(name)]


def last_state(workdir: Path) -> dict[str, np.ndarray]:
    """Arrays of the newest checkpoint by name."""
    folder = workdir.absolute() / "checkpoints" / str(run_steps(workdir)[-1]) / "state"
    reader = ocp.PyTreeCheckpointHandler()
    kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), reader.metadata(folder).tree)
    leaves, _ = jax.tree_util.tree_flatten_with_path(
        reader.restore(folder, args=ocp.args.PyTreeRestore(restore_args=kinds))
    )
    reader.close()
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def summary(workdir: Path) -> str:
    """What was compared of a run that came to its end."""
    rollouts, exported = (len(list((workdir / part).glob("*"))) for part in ("rollouts", "export"))
    lines, arrays = len(read_metrics(workdir / "metrics.jsonl")), len(last_state(workdir))
    return (
        f"{workdir.name}: {lines} lines of metrics, {rollouts} rollout files, {exported} exported files, {arrays} "
        "arrays of the last checkpoint"
    )


def start(config: str, workdir: Path, fields: list[str]) -> subprocess.Popen:
    """The command, with all that it says added to a log beside the run."""
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
    """Wait for the end; raises SystemExit with the last words of a run that did not end well."""
    if process.wait():
        said = workdir.with_suffix(".log").read_text(encoding="utf-8", errors="replace").splitlines()
        sys.exit("\n".join([f"{workdir} ended with status {process.returncode}; its last lines:", *said[-12:]]))


def undisturbed(config: str, workdir: Path, fields: list[str]) -> Pace:
    """Train the run that is left in peace."""
    process, began = start(config, workdir, fields), time.monotonic()
    while process.poll() is None and not shown(workdir, "step"):
        time.sleep(LOOK)
    first = time.monotonic() - began
    finish(process, workdir)
    steps = [record["time/step"] for record in read_metrics(workdir / "metrics.jsonl") if record["step"]]
    return Pace(first, statistics.median(steps))


def main() -> int:
    """Print a row a kill and a line a run; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/three_stage.py:tiny")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--full", action="store_true", help="the config as it is, not with a few short steps")
    parser.add_argument("--folder", help="where the runs are written; default: a folder for temporary files")
    given, fields = parser.parse_known_args()
    if given.folder:
        Path(given.folder).mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="kills-", dir=given.folder))
    shared = {} if given.full else SHORT
    fields = [
        f"--config.{name}={value}"
        for name, value in {"wandb.mode": "off", "compile_cache": home / "compiled", **shared}.items()
    ] + fields
    chance, whole = random.Random(given.seed), home / "whole"
    pace = undisturbed(given.config, whole, fields)
    print(
        f"{given.config}, moments from seed {given.seed}; undisturbed: {pace.start:.1f} s to the first line, "
        f"{pace.step:.2f} s a step\n"
    )
    print("| kill | run | while | after | last line | checkpoint | half written |\n|---|---|---|---|---|---|---|")
    kinds = [kind for _ in range(given.kills) for kind in chance.sample(list(KINDS), len(KINDS))][: given.kills]
    done, ends, failed = 0, [], False
    while kinds or (home / f"run{len(ends)}").exists():
        workdir = home / f"run{len(ends)}"
        kind = next((kind for kind in kinds if kind != FIRST or not workdir.exists()), None)
        process = start(given.config, workdir, fields)
        moment = draw(kind, pace, chance) if kind else None
        if moment and kill_at(process, workdir, moment):
            done += 1
            kinds.remove(kind)
            cells = (str(done), str(len(ends)), moment.kind, f"{moment.delay:.3f} s", *left(workdir))
            print(f"| {' | '.join(cells)} |", flush=True)
            continue
        finish(process, workdir)
        wrong = differences(workdir, whole)
        failed |= bool(wrong)
        ends.append(f"{summary(workdir)}: {len(wrong)} differences{''.join(f', {name}' for name in wrong)}")
        shutil.rmtree(workdir)
    print("\n" + "\n".join(ends))
    shutil.rmtree(home)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

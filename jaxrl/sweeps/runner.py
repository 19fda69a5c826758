"""Runs of a sweep as child processes, one at a time or in parallel; each resumes from its last checkpoint."""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxrl.checkpointing.restore import run_steps
from jaxrl.evaluation.results import from_json
from jaxrl.reporting.terminal import duration
from jaxrl.runtime.signals import Stopped, StopRequest, stop_on_signal
from models.file_lock import lock

LAST_LINES = 12  # of a failed run's log, printed
_POLL = 0.2  # seconds between two checks of the children


class SweepRun(NamedTuple):
    """One run of a sweep. arguments: of the Python interpreter that executes the run."""

    index: int
    setting: str
    seed: int
    workdir: Path
    model: str
    steps: int
    export: bool
    arguments: tuple[str, ...]

    @property
    def log(self) -> Path:
        """The run's stdout and stderr are appended to this file. It is locked while the run is active."""
        return self.workdir.parent / "logs" / f"{self.workdir.name}.log"

    @property
    def label(self) -> str:
        """The run's name in messages."""
        return f"{self.index}: {self.setting}, seed {self.seed}"


@dataclasses.dataclass(eq=False)
class _Child:
    run: SweepRun
    process: subprocess.Popen
    slot: Mapping[str, str]
    log: int  # file descriptor that holds the lock
    log_start: int  # size of the log in bytes before the child wrote to it
    started: float
    terminated: bool = False


class Unfinished(NamedTuple):
    """failed: runs that failed, or that another process is executing. stopped: runs that were stopped by a signal and
    can be resumed."""

    failed: list[SweepRun]
    stopped: list[SweepRun]


def finished(run: SweepRun) -> bool:
    """Whether the run is complete: the final evaluation belongs to the last checkpoint, and the export exists."""
    after = run.workdir / "evaluations" / "after.json"
    if not after.is_file() or (run.export and not (run.workdir / "export").is_dir()):
        return False
    return from_json(after.read_text(encoding="utf-8")).step == _steps_done(run)


def state(run: SweepRun) -> str:
    """One of "to do", "step 20 of 50", "running" and "finished"."""
    if run.log.exists():
        log = _open_locked(run.log)
        if log is None:
            return "running"
        os.close(log)
    if finished(run):
        return "finished"
    steps = _steps_done(run)
    return f"step {steps} of {run.steps}" if steps else "to do"


def run_sweep(
    runs: Sequence[SweepRun], slots: Sequence[Mapping[str, str]], print_fn: Callable[[str], None]
) -> Unfinished:
    """Executes all runs that are not finished, at most one in each slot at a time.

    slots: environment variables for the runs in each slot. A failed run is reported with the last lines of its log; the
    other runs continue. Raises Stopped on a signal, after all children have saved their state.
    """
    children: list[_Child] = []
    with stop_on_signal(lambda: _terminate(children)) as stop:
        try:
            return _schedule(list(runs), list(slots), print_fn, stop, children)
        finally:
            _terminate(children)
            for child in children:
                child.process.wait()
                os.close(child.log)


def _schedule(
    pending: list[SweepRun],
    free: list[Mapping[str, str]],
    print_fn: Callable[[str], None],
    stop: StopRequest,
    children: list[_Child],
) -> Unfinished:
    unfinished = Unfinished([], [])
    while pending or children:
        while pending and free:
            stop.poll()
            run = pending.pop(0)
            if finished(run):
                print_fn(f"{run.label}: finished")
            elif child := _start(run, free[0], print_fn):
                free.pop(0)
                children.append(child)
                print_fn(f"{run.label}: started, log in {run.log}")
            else:
                unfinished.failed.append(run)
                print_fn(f"{run.label}: skipped, another process is executing it")
        stop.poll()
        time.sleep(_POLL)
        for child in [child for child in children if child.process.poll() is not None]:
            children.remove(child)
            free.append(child.slot)
            _collect(child, unfinished, print_fn)
    return unfinished


def _terminate(children: Sequence[_Child]) -> None:
    """Sends SIGTERM to each child once; a second signal would end it before it has saved."""
    for child in children:
        if not child.terminated:
            child.terminated = True
            child.process.terminate()


def _start(run: SweepRun, slot: Mapping[str, str], print_fn: Callable[[str], None]) -> _Child | None:
    """Starts a run; None if another process holds the lock of its log.

    The child inherits the lock, so the lock is held for as long as any process writes to the log. The child has its own
    session: a signal to the sweep's process group reaches it only through `run_sweep`, once.
    """
    run.log.parent.mkdir(parents=True, exist_ok=True)
    log = _open_locked(run.log, print_fn)
    if log is None:
        return None
    log_start = os.fstat(log).st_size
    process = subprocess.Popen(
        [sys.executable, *run.arguments],
        env=os.environ | dict(slot),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    return _Child(run, process, slot, log, log_start, time.monotonic())


def _collect(child: _Child, unfinished: Unfinished, print_fn: Callable[[str], None]) -> None:
    """Reports a child that has exited and adds its run to `unfinished` if it is not complete."""
    run, status = child.run, child.process.returncode
    os.close(child.log)
    if status == Stopped.status:
        unfinished.stopped.append(run)
        print_fn(f"{run.label}: stopped by a signal after step {_steps_done(run)}; run the same command to resume it")
    elif status == 0 and finished(run):
        print_fn(f"{run.label}: finished in {duration(time.monotonic() - child.started)}")
    else:
        unfinished.failed.append(run)
        with open(run.log, "rb") as log:
            log.seek(child.log_start)
            lines = log.read().decode(errors="replace").splitlines()[-LAST_LINES:]
        ended = f"exited with status {status}" if status >= 0 else f"was killed by signal {-status}"
        print_fn("\n".join([f"{run.label}: {ended}; last lines of its log:", *(f"    {line}" for line in lines)]))


def _open_locked(path: Path, print_fn: Callable[[str], None] | None = None) -> int | None:
    """A descriptor for appending that holds the file's lock until its last copy is closed; None if it is locked.

    print_fn: receives a warning if the file system does not support locks.
    """
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        warning = lock(log, path)
    except BlockingIOError:
        os.close(log)
        return None
    if warning and print_fn:
        print_fn(f"warning: {warning}")
    return log


def _steps_done(run: SweepRun) -> int:
    steps = run_steps(run.workdir) if (run.workdir / "checkpoints").is_dir() else []
    return steps[-1] if steps else 0

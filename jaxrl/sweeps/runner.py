"""The runs of a sweep as child processes, one after another or side by side; each goes on where it was."""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxrl.checkpointing.restore import run_steps
from jaxrl.evaluation.results import from_json, percent
from jaxrl.reporting.terminal import duration
from jaxrl.runtime.signals import Signals, Stopped
from jaxrl.sweeps.halving import Halving, failure_mark
from jaxrl.sweeps.halving_decisions import Stop
from models.file_lock import lock

LAST_LINES = 12  # of a failed run's output that are shown
_PAUSE = 0.2  # seconds between two looks at the children


class Member(NamedTuple):
    """One run of a sweep. arguments: what Python is given to make it."""

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
        """Where everything that the run says is appended; locked while it runs."""
        return self.workdir.parent / "logs" / f"{self.workdir.name}.log"


@dataclasses.dataclass(eq=False)
class _Child:
    member: Member
    process: subprocess.Popen
    slot: Mapping[str, str]
    log: int  # the descriptor that holds the lock
    said: int  # bytes of the log that were there before
    began: float
    told: bool = False  # it was asked to end
    held: bool = False  # that was to wait for others


class Unfinished(NamedTuple):
    """Runs that failed or that another process has, and runs that wait: for others before losers are stopped, or for
    the same command after a signal."""

    failed: list[Member]
    waiting: list[Member]


def finished(member: Member) -> bool:
    """Whether nothing is left to do: the last checkpoint comes with the last evaluation, the export after both."""
    after = member.workdir / "evaluations" / "after.json"
    if not after.is_file() or (member.export and not (member.workdir / "export").is_dir()):
        return False
    return from_json(after.read_text(encoding="utf-8")).step == _steps_done(member)


def state(member: Member, halving: Halving) -> str:
    """The run in words: "to do", "step 20 of 50", "running", "stopped after step 20" or "finished"."""
    if member.log.exists():
        log = _open_locked(member.log)
        if log is None:
            return "running"
        os.close(log)
    if over := _over(member, halving):
        return over
    done = _steps_done(member)
    return f"step {done} of {member.steps}" if done else "to do"


def run_members(
    members: Sequence[Member], slots: Sequence[Mapping[str, str]], halving: Halving, say: Callable[[str], None]
) -> Unfinished:
    """Runs what is not finished, at most one in each slot at a time; returns what is still to be done.

    slots: what is set in the environment of a run in that place. A run that fails is named with its last lines, and the
    others go on. Raises Stopped at a signal, once the children have saved.
    """
    for member in members:
        failure_mark(member.workdir).unlink(missing_ok=True)
    running: list[_Child] = []
    with Signals(tell=lambda: _stop(running)) as signals:
        return _run_members(members, slots, halving, say, signals, running)


def _run_members(members, slots, halving, say, signals: Signals, running: list[_Child]) -> Unfinished:
    left, free, failed, elsewhere, stopped = list(members), list(slots), [], [], []
    try:
        while True:
            with signals.held():  # so that no child is begun and forgotten
                for stop in halving.decide():
                    say(_told(stop))
                for member in list(left) if free else ():
                    if over := _over(member, halving):
                        left.remove(member)
                        say(f"{_name(member)}: {over}")
                    elif free and not halving.holds(member.setting, member.workdir):
                        left.remove(member)
                        if child := _start(member, free[0], say):
                            free.pop(0)
                            running.append(child)
                            say(f"{_name(member)}: started, its output is in {member.log}")
                        else:
                            elsewhere.append(member)
                            say(f"{_name(member)}: another process is running it, left alone")
                if not running:
                    return Unfinished([*failed, *elsewhere], [*left, *stopped])
            time.sleep(_PAUSE)
            with signals.held():
                for child in list(running):
                    member = child.member
                    if child.process.poll() is None:
                        if not child.held and halving.holds(member.setting, member.workdir):
                            _stop([child])  # it saves, and goes on exactly there if it may
                            child.held = True
                        continue
                    running.remove(child)
                    free.append(child.slot)
                    if child.process.returncode != Stopped.status:
                        failed += [] if _ended_well(child, say) else [member]
                        os.close(child.log)
                        continue
                    os.close(child.log)
                    (left if child.held else stopped).append(member)
                    say(
                        f"{_name(member)}: waits after step {_steps_done(member)}"
                        + ("" if child.held else "; it was stopped by a signal, and the same command goes on with it")
                    )
    finally:
        _stop(running)
        for child in running:
            child.process.wait()
            os.close(child.log)


def _stop(running: Sequence[_Child]) -> None:
    """Ask them to save and end, each once: a second signal would end it before it has saved."""
    for child in running:
        if not child.told:
            child.told = True
            child.process.terminate()


def _start(member: Member, slot: Mapping[str, str], say: Callable[[str], None]) -> _Child | None:
    """None where another process holds the log. The child inherits the lock: it lasts as long as anybody writes.

    It has a session of its own: what signals the sweep signals it only through `run_members`, once.
    """
    member.log.parent.mkdir(parents=True, exist_ok=True)
    log = _open_locked(member.log, say)
    if log is None:
        return None
    said = os.fstat(log).st_size
    process = subprocess.Popen(
        [sys.executable, *member.arguments],
        env=os.environ | dict(slot),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    return _Child(member, process, slot, log, said, time.monotonic())


def _ended_well(child: _Child, say: Callable[[str], None]) -> bool:
    member, status = child.member, child.process.returncode
    if status == 0 and finished(member):
        say(f"{_name(member)}: finished in {duration(time.monotonic() - child.began)}")
        return True
    with open(member.log, "rb") as log:
        log.seek(child.said)
        lines = log.read().decode(errors="replace").splitlines()[-LAST_LINES:]
    ended = f"ended with status {status}" if status >= 0 else f"was ended by signal {-status}"
    say("\n".join([f"{_name(member)}: {ended}; its last lines:", *(f"    {line}" for line in lines)]))
    mark = failure_mark(member.workdir)
    try:
        mark.touch()
    except OSError as error:  # on a full disk, of which the run may have died
        say(f"warning: {mark} can't be written ({error.strerror}); --stop_losers waits for this run.")
    return False


def _over(member: Member, halving: Halving) -> str:
    """Why there is nothing to be done for a run, in words; empty where there is."""
    if finished(member):
        return "finished"
    stops = halving.stops()
    return f"stopped after step {stops[member.setting].step}" if member.setting in stops else ""


def _told(stop: Stop) -> str:
    return (
        f"{stop.setting} is stopped after step {stop.step}: held-out accuracy {percent(stop.accuracy)}, while "
        f"{stop.kept}, the last that stays, has {percent(stop.bar)}"
    )


def _open_locked(path: Path, say: Callable[[str], None] | None = None) -> int | None:
    """A descriptor that appends and holds the file's lock until its last copy is closed; None where another has it.

    say: gets a warning where the file system has no locks.
    """
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        warning = lock(log, path)
    except BlockingIOError:
        os.close(log)
        return None
    if warning and say:
        say(f"warning: {warning}")
    return log


def _steps_done(member: Member) -> int:
    steps = run_steps(member.workdir) if (member.workdir / "checkpoints").is_dir() else []
    return steps[-1] if steps else 0


def _name(member: Member) -> str:
    return f"{member.index}: {member.setting}, seed {member.seed}"

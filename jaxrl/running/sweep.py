"""The runs of a sweep as child processes, one after another or side by side; each goes on where it was."""

import fcntl
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxrl.learning.run_params import run_steps
from jaxrl.reporting.terminal import duration

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


class _Child(NamedTuple):
    member: Member
    process: subprocess.Popen
    slot: Mapping[str, str]
    log: int  # the descriptor that holds the lock
    said: int  # bytes of the log that were there before
    began: float


def finished(member: Member) -> bool:
    """Whether nothing is left to do: the last checkpoint comes after the last evaluation, the export after both."""
    return _steps_done(member) == member.steps and (not member.export or (member.workdir / "export").is_dir())


def state(member: Member) -> str:
    """The run in words: "to do", "step 20 of 50", "running" or "finished"."""
    if member.log.exists():
        log = _open_locked(member.log)
        if log is None:
            return "running"
        os.close(log)
    if finished(member):
        return "finished"
    done = _steps_done(member)
    return f"step {done} of {member.steps}" if done else "to do"


def run_members(
    members: Sequence[Member], slots: Sequence[Mapping[str, str]], say: Callable[[str], None]
) -> list[Member]:
    """Runs what is not finished, at most one in each slot at a time; returns those that did not finish.

    slots: what is set in the environment of a run in that place. A run that fails is named with its last lines, and the
    others go on. When this process is stopped, so are its children; what they have done stays.
    """
    waiting, free, running, failed = deque(members), list(slots), [], []
    try:
        while waiting or running:
            while waiting and free:
                member = waiting.popleft()
                if finished(member):
                    say(f"{_name(member)}: finished before")
                elif child := _start(member, free[0]):
                    free.pop(0)
                    running.append(child)
                    say(f"{_name(member)}: started, its output is in {member.log}")
                else:
                    failed.append(member)
                    say(f"{_name(member)}: another process is running it, left alone")
            time.sleep(_PAUSE if running else 0)
            for child in [child for child in running if child.process.poll() is not None]:
                running.remove(child)
                free.append(child.slot)
                if not _ended_well(child, say):
                    failed.append(child.member)
    finally:
        for child in running:
            child.process.terminate()
        for child in running:
            child.process.wait()
            os.close(child.log)
    return failed


def _start(member: Member, slot: Mapping[str, str]) -> _Child | None:
    """None where another process holds the log. The child inherits the lock: it lasts as long as anybody writes."""
    member.log.parent.mkdir(parents=True, exist_ok=True)
    log = _open_locked(member.log)
    if log is None:
        return None
    said = os.fstat(log).st_size
    process = subprocess.Popen([sys.executable, *member.arguments], env=os.environ | dict(slot),
                               stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    return _Child(member, process, slot, log, said, time.monotonic())


def _ended_well(child: _Child, say: Callable[[str], None]) -> bool:
    os.close(child.log)
    member, status = child.member, child.process.returncode
    if status == 0 and finished(member):
        say(f"{_name(member)}: finished in {duration(time.monotonic() - child.began)}")
        return True
    with open(member.log, "rb") as log:
        log.seek(child.said)
        lines = log.read().decode(errors="replace").splitlines()[-LAST_LINES:]
    ended = f"ended with status {status}" if status >= 0 else f"was ended by signal {-status}"
    say("\n".join([f"{_name(member)}: {ended}; its last lines:", *(f"    {line}" for line in lines)]))
    return False


def _open_locked(path: Path) -> int | None:
    """A descriptor that appends and holds the file's lock until its last copy is closed; None where another has it."""
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(log)
        return None
    return log


def _steps_done(member: Member) -> int:
    steps = run_steps(member.workdir) if (member.workdir / "checkpoints").is_dir() else []
    return steps[-1] if steps else 0


def _name(member: Member) -> str:
    return f"{member.index}: {member.setting}, seed {member.seed}"

"""Signals: the first asks for an end, an echo of it is one and the same, a later one ends the process at once."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jaxrl.runtime.signals import ECHO, Signals, Stopped
from jaxrl.sweeps.halving import Halving
from jaxrl.sweeps.runner import Member, run_members

ROOT = Path(__file__).parents[2]
# Says when it is ready, and after the first signal saves for a while.
WORKER = """
import sys, time
from jaxrl.runtime.signals import ECHO, Signals, Stopped
with Signals() as signals:
    try:
        print("ready", flush=True)
        while True:
            time.sleep(0.01)
    except Stopped:
        time.sleep(2 * ECHO)
        print("saved", flush=True)
"""
# Will not be left, whatever was asked.
HOLDER = """
import time
from jaxrl.runtime.signals import Signals
with Signals() as signals, signals.held():
    print("ready", flush=True)
    while not signals.asked:
        time.sleep(0.01)
    time.sleep(600)
"""


# A signal that comes while the garbage collector calls back: Python drops what is raised there.
SWALLOWED = """
import gc, signal, time
from jaxrl.flags import run
from jaxrl.runtime.signals import Signals
def interrupt(phase, info):
    if phase == "stop":
        gc.callbacks.remove(interrupt)
        signal.raise_signal(signal.SIGTERM)
def command(config):
    gc.callbacks.append(interrupt)
    gc.collect()
    time.sleep(60)
def inside(config):
    with Signals():
        command(config)
def dropped(config):
    try:
        signal.raise_signal(signal.SIGTERM)
    except BaseException:
        pass
    with Signals():
        time.sleep(60)
run("jaxrl.some", {})
"""
COMMAND = """
import signal
from jaxrl.flags import run
from jaxrl.runtime.signals import Ended
def give_up(config):
    raise Ended("the guard gave up.")
def stopped(number):
    def command(config):
        try:
            signal.raise_signal(number)
        except Exception:  # no library's remedy for its own errors
            pass
    return command
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is set aside, and so left alone
run("jaxrl.some", {})
"""


def worker(code):
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_two_signals_at_a_time_are_one(second):
    """Slurm may signal a process and also its parent, which passes the signal on."""
    process = worker(WORKER)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.8 * ECHO)
    process.send_signal(second)
    assert process.communicate(timeout=60)[0] == "saved\n" and process.returncode == 0


def test_a_sweep_and_its_run_that_are_both_signalled_take_it_as_one(tmp_path):
    """systemd signals all processes of a unit, and the sweep passes on what it gets."""
    (tmp_path / "logs").mkdir()
    run = Member(0, "plain", 0, tmp_path / "plain", "model", 2, False, ("-c", WORKER + "        sys.exit(75)\n"))
    both = threading.Timer(
        5 * ECHO,
        lambda: [signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM), signal_children(signal.SIGTERM)],
    )
    both.start()
    with pytest.raises(Stopped):
        run_members([run], [{}], Halving(tmp_path / "stopped.json", {}), lambda _: None)
    assert run.log.read_text() == "ready\nsaved\n"


def signal_children(number):
    for name in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(name.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                os.kill(int(name.parent.name), number)


HELD = """
import hashlib
from jaxrl.runtime.signals import Signals, Stopped
try:
    with Signals() as signals, signals.held():
        print("ready", flush=True)
        while not signals.asked:
            pass
        hashlib.pbkdf2_hmac("sha256", b"", b"", SECONDS * 2_000_000)  # no handler runs in it
except Stopped:
    print("saved", flush=True)
"""


def test_an_echo_is_one_also_where_python_hears_of_it_late():
    process = worker(HELD.replace("SECONDS", str(3)))
    process.send_signal(signal.SIGTERM)
    time.sleep(0.8 * ECHO)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == "saved\n" and process.returncode == 0


def test_an_end_asked_for_again_does_not_disturb_the_saving():
    """What was swallowed is raised by `held` before the reminder comes."""
    raised = []
    with Signals() as signals, pytest.raises(Stopped):
        gc.callbacks.append(interrupt_once)
        gc.collect()
        try:
            with signals.held():
                raised.append("held")
        finally:
            time.sleep(0.5)  # a save
            raised.append("saved")
    assert raised == ["saved"]


def interrupt_once(phase, info):
    if phase == "stop":
        gc.callbacks.remove(interrupt_once)
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("way", ["command", "inside", "dropped"])
def test_a_signal_is_not_lost_where_what_it_raises_is(way):
    command = [sys.executable, "-c", SWALLOWED.format(way), "--config=configs/stage1.py:tiny"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    said = "jaxrl.some: stopped by SIGTERM; start the same command again to go on.\n"
    assert (ended.returncode, ended.stderr) == (75, said)


def test_a_second_signal_stops_at_once():
    process = worker(HOLDER)
    process.send_signal(signal.SIGTERM)
    time.sleep(2 * ECHO)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT


def test_a_closed_terminal_stops_a_run_unless_nohup_says_that_it_must_not(monkeypatch):
    monkeypatch.setattr("jaxrl.runtime.signals.ECHO", 0)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals():
            os.kill(os.getpid(), signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with pytest.raises(Stopped, match="stopped by SIGHUP"), Signals():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(10)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("way", "status", "told"),
    [
        ("give_up", 3, "the guard gave up."),
        *(
            (f"stopped(signal.{name})", 75, f"stopped by {name}; start the same command again to go on.")
            for name in ("SIGTERM", "SIGINT", "SIGHUP")
        ),
    ],
)
def test_ends_have_exit_statuses_of_their_own(way, status, told):
    """Neither an error's nor a refusal's; a signal also where a run does not take it yet."""
    command = [sys.executable, "-c", COMMAND.format(way), "--config=configs/stage1.py:tiny"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (status, f"jaxrl.some: {told}\n")
    with open("/dev/full", "wb") as full:  # also where the sentence can't be said
        assert subprocess.run(command, cwd=ROOT, stdout=full, stderr=full, timeout=60).returncode == status

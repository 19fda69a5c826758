"""The first signal requests a stop, a duplicate of it changes nothing, and a second one ends the process at once."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jaxrl.runtime.signals import DUPLICATE_SECONDS, Stopped, stop_on_signal
from jaxrl.sweeps.runner import SweepRun, run_sweep

ROOT = Path(__file__).parents[2]
# Works until it is stopped, then saves for a while.
WORKER = """
import sys, time
from jaxrl.runtime.signals import DUPLICATE_SECONDS, Stopped, stop_on_signal
try:
    with stop_on_signal() as stop:
        print("ready", flush=True)
        try:
            while True:
                time.sleep(0.01)
                stop.poll()
        except Stopped:
            time.sleep(SAVING * DUPLICATE_SECONDS)
            print("saved", flush=True)
            raise
except Stopped:
    sys.exit(75)
"""
# Does not look at the flag; HASH does not let Python run a handler for about three seconds.
BUSY = """
import hashlib, sys
from jaxrl.runtime.signals import Stopped, stop_on_signal
try:
    with stop_on_signal() as stop:
        print("ready", flush=True)
        while not stop.received:
            pass
        hashlib.pbkdf2_hmac("sha256", b"", b"", 6_000_000)
except Stopped:
    print("stopped", flush=True)
"""
# A signal during a callback of the garbage collector: Python drops an exception that is raised there.
COMMANDS = """
import gc, signal, sys, time
from jaxrl.command_line import CommandParser, run
from jaxrl.runtime.signals import Ended, stop_on_signal
def interrupt(phase, info):
    if phase == "stop":
        gc.callbacks.remove(interrupt)
        signal.raise_signal(signal.SIGTERM)
def starting(config):
    gc.callbacks.append(interrupt)
    gc.collect()
    time.sleep(60)
def training(config):
    with stop_on_signal() as stop:
        gc.callbacks.append(interrupt)
        gc.collect()
        stop.poll()
        time.sleep(60)
def not_polled(config):
    with stop_on_signal() as stop:
        signal.raise_signal(signal.SIGTERM)
def gives_up(config):
    raise Ended("the guard gave up.")
def receives(number):
    def command(config):
        try:
            signal.raise_signal(number)
        except BaseException:  # a library may catch everything
            pass
    return command
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
sys.exit(run(CommandParser("jaxrl.some", ""), COMMAND, exit_at_signal=True, drop_output=True))
"""


def start(code):
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_duplicate_within_a_second_is_ignored(second):
    """Slurm may signal a process and also its parent, which passes the signal on."""
    process = start(WORKER.replace("SAVING", "1"))
    process.send_signal(signal.SIGTERM)
    time.sleep(0.8 * DUPLICATE_SECONDS)
    process.send_signal(second)
    assert process.communicate(timeout=60)[0] == "saved\n" and process.returncode == 75


def test_a_duplicate_is_ignored_while_python_runs_no_handlers():
    process = start(BUSY)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.8 * DUPLICATE_SECONDS)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == "stopped\n" and process.returncode == 0


def test_a_second_signal_ends_the_process_at_once():
    process = start(WORKER.replace("SAVING", "600"))
    process.send_signal(signal.SIGTERM)
    time.sleep(2 * DUPLICATE_SECONDS)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT


def test_the_handler_of_the_first_signal_calls_back_at_once():
    """A sweep passes the signal on to its runs, within the time in which theirs count duplicates."""
    received = []
    with pytest.raises(Stopped, match="stopped by SIGTERM"), stop_on_signal(lambda: received.append(time.monotonic())):
        sent = time.monotonic()
        os.kill(os.getpid(), signal.SIGTERM)
    assert len(received) == 1 and received[0] - sent < 0.5 * DUPLICATE_SECONDS


def test_a_sweep_and_its_run_that_are_both_signalled_count_it_once(tmp_path):
    """systemd signals all processes of a unit, and the sweep passes on what it receives."""
    (tmp_path / "logs").mkdir()
    run = SweepRun(0, "plain", 0, tmp_path / "plain", "model", 2, False, ("-c", WORKER.replace("SAVING", "2")))
    signal_both = threading.Timer(
        5 * DUPLICATE_SECONDS,
        lambda: [signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM), signal_children(signal.SIGTERM)],
    )
    signal_both.start()
    with pytest.raises(Stopped):
        run_sweep([run], [{}], lambda _: None)
    assert run.log.read_text() == "ready\nsaved\n"


def signal_children(number):
    for name in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(name.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                os.kill(int(name.parent.name), number)


def test_a_closed_terminal_stops_a_run_except_under_nohup(monkeypatch):
    monkeypatch.setattr("jaxrl.runtime.signals.DUPLICATE_SECONDS", 0)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            stop.poll()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with pytest.raises(Stopped, match="stopped by SIGHUP"), stop_on_signal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            stop.poll()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


STOPPED = "stopped by {}; run the same command again to resume."


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("gives_up", 3, "the guard gave up."),
        ("starting", 75, STOPPED.format("SIGTERM")),
        ("training", 75, STOPPED.format("SIGTERM")),
        ("not_polled", 75, STOPPED.format("SIGTERM")),
        ("receives(signal.SIGINT)", 75, STOPPED.format("SIGINT")),
        ("receives(signal.SIGHUP)", 75, STOPPED.format("SIGHUP")),
    ],
)
def test_a_command_that_ends_early_has_its_own_exit_status(command, status, message):
    """Neither that of an error nor of a refusal; also if its message cannot be written."""
    arguments = [sys.executable, "-c", COMMANDS.replace("COMMAND", command)]
    ended = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert (ended.returncode, ended.stderr) == (status, f"jaxrl.some: {message}\n")
    if command in ("gives_up", "starting"):
        with open("/dev/full", "wb") as full:
            assert subprocess.run(arguments, cwd=ROOT, stdout=full, stderr=full, timeout=60).returncode == status

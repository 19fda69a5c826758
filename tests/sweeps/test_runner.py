"""Child processes of a sweep: slots, failures that do not stop other runs, and one process per run folder."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jaxrl.evaluation.results import EvaluationResult, Item, Sample, to_json
from jaxrl.sweeps import runner
from jaxrl.sweeps.runner import SweepRun, Unfinished, run_sweep, state

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# A run in plain Python: prints its device, writes the checkpoint, evaluation and export of step 2, or fails.
CHILD = """
import os, pathlib, sys, time
folder, works = pathlib.Path(sys.argv[1]), sys.argv[2] == "works"
print("first line", os.getpid(), *range(20), os.environ.get("CUDA_VISIBLE_DEVICES"), sep="\\n", flush=True)
(folder / "checkpoints" / "2" / "state").mkdir(parents=True, exist_ok=True)
time.sleep(float(sys.argv[3]))
if not works:
    sys.exit("went wrong")
(folder / "evaluations").mkdir()
(folder / "evaluations" / "after.json").write_text(sys.argv[4])
(folder / "export").mkdir()
"""

# Takes half a second to save after a signal and exits with status 75; a second signal would kill it before that.
SAVING = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def save(*_):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    time.sleep(0.5)
    (folder / "saved").touch()
    os._exit(75)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGINT, save)
print(os.getpid(), flush=True)
folder.mkdir()
while True:
    time.sleep(0.01)
"""
# The parent process of one run, as `jaxrl.sweep`.
PARENT = """
import sys
from pathlib import PosixPath
from jaxrl.runtime.signals import Ended
from jaxrl.sweeps.runner import *
try:
    run_sweep([{run}], [{{}}], print)
except Ended as ended:
    print(ended)
    sys.exit(ended.status)
"""


def evaluation(step):
    """An evaluation of one problem as JSON."""
    item = Item("0", "p3", "?", "!", False, (), (Sample("correct", 9, True, "", ""),))
    return to_json(EvaluationResult("after", "model", step, "strict-1", {}, (item,)))


@pytest.fixture
def make_run(tmp_path):
    (tmp_path / "child.py").write_text(CHILD)

    def make(index, works=True, seconds=0.0):
        folder = tmp_path / f"run{index}"
        arguments = (
            str(tmp_path / "child.py"),
            str(folder),
            "works" if works else "fails",
            str(seconds),
            evaluation(2),
        )
        return SweepRun(index, f"setting{index}", 0, folder, "model", 2, True, arguments)

    return make


def execute(runs, slots=({},), print_fn=lambda line: None):
    return run_sweep(runs, slots, print_fn)


def test_failed_run_is_reported_with_its_last_lines_and_the_others_continue(make_run):
    printed = []
    runs = [make_run(0), make_run(1, works=False), make_run(2)]
    assert execute(runs, print_fn=printed.append) == Unfinished([runs[1]], [])
    (report,) = (text for text in printed if "exited with status 1" in text)
    assert report.startswith("1: setting1, seed 0: ") and report.endswith("went wrong") and "first line" not in report
    assert [state(run) for run in runs] == ["finished", "step 2 of 2", "finished"]
    assert execute(runs[:1], print_fn=printed.append) == Unfinished([], [])
    assert printed[-1] == "0: setting0, seed 0: finished"


def test_run_that_ends_before_its_last_step_is_finished(make_run):
    run = make_run(0)._replace(steps=9)
    assert execute([run]) == Unfinished([], [])
    assert state(run) == "finished"


def test_each_slot_has_one_run_at_a_time(make_run):
    runs = [make_run(index, seconds=0.3) for index in range(4)]
    slots = [{"CUDA_VISIBLE_DEVICES": "5"}, {"CUDA_VISIBLE_DEVICES": "7"}]
    assert execute(runs, slots) == Unfinished([], [])
    used = [run.log.read_text().split()[-1] for run in runs]
    assert sorted(used) == ["5", "5", "7", "7"]


def test_run_of_another_process_is_skipped(make_run):
    run, printed = make_run(0), []
    run.log.parent.mkdir()
    holder = runner._open_locked(run.log)
    assert state(run) == "running"
    assert execute([run], print_fn=printed.append) == Unfinished([run], [])
    assert "another process is executing it" in printed[0] and not run.workdir.exists()
    os.close(holder)
    assert state(run) == "to do"


def test_child_keeps_its_lock_if_the_sweep_is_killed(make_run):
    """After SIGKILL of the sweep its child continues; a restarted sweep must not write to the same folder."""
    run = make_run(0, seconds=600)
    parent = subprocess.Popen([sys.executable, "-c", PARENT.format(run=run)], cwd=ROOT, stdout=subprocess.DEVNULL)
    while not (run.workdir / "checkpoints").exists():
        assert parent.poll() is None
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    try:
        assert state(run) == "running"
    finally:
        os.kill(int(run.log.read_text().splitlines()[1]), signal.SIGKILL)


@pytest.fixture
def saving_run(tmp_path):
    """A run that saves after a signal."""
    (tmp_path / "child.py").write_text(SAVING)
    folder = tmp_path / "run0"
    return SweepRun(0, "setting0", 0, folder, "model", 2, False, (str(tmp_path / "child.py"), str(folder)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_sweep_waits_until_its_runs_have_saved(saving_run, number):
    """The whole process group is signalled, as by a terminal: a child that also got this signal would die unsaved."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(run=saving_run)],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(saving_run.workdir, parent)
    os.killpg(parent.pid, number)
    output = parent.communicate(timeout=60)[0]
    assert parent.returncode == 75, output
    assert output.splitlines()[-1].startswith(f"stopped by {number.name}; ")
    assert "Traceback" not in output and (saving_run.workdir / "saved").exists()


def test_run_stopped_by_somebody_else_has_not_failed(saving_run):
    printed, thread = [], threading.Thread(target=stop, args=[saving_run])
    thread.start()
    assert execute([saving_run], print_fn=printed.append) == Unfinished([], [saving_run])
    assert printed[-1].endswith("stopped by a signal after step 0; run the same command to resume it")
    thread.join()


def wait_for(path, process=None):
    while not path.exists():
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)


def stop(run):
    """Signals the run itself, once it has started."""
    wait_for(run.workdir)
    os.kill(int(run.log.read_text()), signal.SIGTERM)

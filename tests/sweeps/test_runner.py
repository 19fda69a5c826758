"""Children of a sweep: slots, failures that stop nobody else, and one process a run folder."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jaxrl.evaluation.results import EvaluationResult, Item, Sample, to_json
from jaxrl.sweeps import runner as sweep
from jaxrl.sweeps.halving import Halving, failure_mark
from jaxrl.sweeps.runner import Member, Unfinished, run_members, state

ROOT = Path(__file__).parents[2]
# A run made of plain Python: says its device, writes checkpoint, evaluation and export of step 2, or fails.
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

# Evaluated after step 1, where it can only be stopped by a signal, as a run that learns for hours; then to its end.
PAUSED = """
import os, pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: os._exit(75))
folder = pathlib.Path(sys.argv[1])
step, name = (2, "after") if (folder / "evaluations").exists() else (1, "step_000001")
(folder / "checkpoints" / str(step) / "state").mkdir(parents=True)
(folder / "evaluations").mkdir(exist_ok=True)
(folder / "evaluations" / f".{step}").write_text(sys.argv[step + 1])
os.replace(folder / "evaluations" / f".{step}", folder / "evaluations" / f"{name}.json")
while step == 1:
    signal.pause()
"""

# Saves for a while after a signal and asks to be started again; a second signal would end it before.
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
# The parent of one such run, as `jaxrl.sweep` is.
PARENT = """
import sys
from pathlib import PosixPath
from jaxrl.runtime.signals import Ended
from jaxrl.sweeps.runner import *
try:
    run_members([{member}], [{{}}], Halving(PosixPath("none"), {{}}), print)
except Ended as ended:
    print(ended)
    sys.exit(ended.status)
"""


def evaluation(step, right=40):
    """Forty problems, so many of them right, as JSON."""
    items = tuple(
        Item(str(number), "p3", "?", "!", False, (), (Sample(verdict, 9, True, "", ""),))
        for number, verdict in enumerate(["correct"] * right + ["wrong_answer"] * (40 - right))
    )
    return to_json(EvaluationResult("after", "model", step, "strict-1", {}, items))


@pytest.fixture
def member(tmp_path):
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
        return Member(index, f"setting{index}", 0, folder, "model", 2, True, arguments)

    return make


def halving_of(members, *steps):
    """Each member a setting of its own."""
    folders = {each.setting: [each.workdir] for each in members}
    return Halving(members[0].workdir.parent / "stopped.json", folders, steps)


def run_all(members, slots=({},), say=lambda line: None, steps=()):
    return run_members(members, slots, halving_of(members, *steps), say)


def test_a_run_that_fails_is_named_with_its_last_lines_and_the_others_go_on(member):
    said = []
    members = [member(0), member(1, works=False), member(2)]
    assert run_all(members, say=said.append) == Unfinished([members[1]], [])
    (told,) = (text for text in said if "ended with status 1" in text)
    assert told.startswith("1: setting1, seed 0: ") and told.endswith("went wrong") and "first line" not in told
    assert [state(each, halving_of(members)) for each in members] == ["finished", "step 2 of 2", "finished"]
    assert run_all(members[:1], say=said.append) == Unfinished([], [])
    assert said[-1] == "0: setting0, seed 0: finished"


def test_a_run_whose_stages_end_before_their_last_step_is_finished(member):
    one = member(0)._replace(steps=9)
    assert run_all([one]) == Unfinished([], [])
    assert state(one, halving_of([one])) == "finished"


def test_each_slot_has_one_run_at_a_time(member):
    members = [member(index, seconds=0.3) for index in range(4)]
    slots = [{"CUDA_VISIBLE_DEVICES": "5"}, {"CUDA_VISIBLE_DEVICES": "7"}]
    assert run_all(members, slots) == Unfinished([], [])
    used = [each.log.read_text().split()[-1] for each in members]
    assert sorted(used) == ["5", "5", "7", "7"]


def test_what_another_process_runs_is_left_alone(member):
    one, said = member(0), []
    one.log.parent.mkdir()
    holder = sweep._open_locked(one.log)
    assert state(one, halving_of([one])) == "running"
    assert run_all([one], say=said.append) == Unfinished([one], [])
    assert "another process is running it" in said[0] and not one.workdir.exists()
    os.close(holder)
    assert state(one, halving_of([one])) == "to do"


def test_a_child_keeps_its_folder_when_the_sweep_is_killed(member):
    """SIGKILL leaves no time to end the child: it writes on, and a sweep started again must not write beside it."""
    one = member(0, seconds=600)
    code = (
        "from pathlib import PosixPath; from jaxrl.sweeps.runner import *; "
        f"run_members([{one}], [{{}}], Halving(PosixPath('none'), {{}}), print)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    while not (one.workdir / "checkpoints").exists():
        assert parent.poll() is None
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    try:
        assert state(one, halving_of([one])) == "running"
    finally:
        os.kill(int(one.log.read_text().splitlines()[1]), signal.SIGKILL)


@pytest.fixture
def saving(tmp_path):
    """A run that saves when it is signalled."""
    (tmp_path / "child.py").write_text(SAVING)
    folder = tmp_path / "run0"
    return Member(0, "setting0", 0, folder, "model", 2, False, (str(tmp_path / "child.py"), str(folder)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_sweep_waits_until_its_runs_have_saved(saving, number):
    """The whole group is signalled, as by a terminal: a child that got the parent's signal too would die unsaved."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(member=saving)],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(saving.workdir, parent)
    os.killpg(parent.pid, number)
    said = parent.communicate(timeout=60)[0]
    assert parent.returncode == 75, said
    assert said.splitlines()[-1] == f"stopped by {number.name}; start the same command again to go on."
    assert "Traceback" not in said and (saving.workdir / "saved").exists()


def test_a_run_that_was_stopped_by_somebody_else_waits_and_has_not_failed(saving):
    said, ender = [], threading.Thread(target=end, args=[saving])
    ender.start()
    assert run_all([saving], say=said.append) == Unfinished([], [saving])
    assert said[-1].endswith("waits after step 0; it was stopped by a signal, and the same command goes on with it")
    ender.join()


def wait_for(path, process=None):
    while not path.exists():
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)


def end(member):
    """Signals the run itself, once it has begun."""
    wait_for(member.workdir)
    os.kill(int(member.log.read_text()), signal.SIGTERM)


@pytest.fixture
def paused(tmp_path):
    """Runs of two steps; given how many of 40 problems each has right after the first."""
    (tmp_path / "child.py").write_text(PAUSED)

    def make(*right):
        return [
            Member(
                index,
                f"setting{index}",
                0,
                tmp_path / f"run{index}",
                "model",
                2,
                False,
                (str(tmp_path / "child.py"), str(tmp_path / f"run{index}"), evaluation(1, count), evaluation(2)),
            )
            for index, count in enumerate(right)
        ]

    return make


@pytest.mark.parametrize("places", [1, 3])
def test_a_loser_is_stopped_and_the_others_go_on_after_they_have_waited(paused, places):
    said, members = [], paused(35, 4, 36)
    assert run_all(members, [{}] * places, said.append, steps=(1,)) == Unfinished([], [])
    assert [state(each, halving_of(members, 1)) for each in members] == ["finished", "stopped after step 1", "finished"]
    assert (
        sum(
            line.startswith(
                "setting1 is stopped after step 1: held-out accuracy 10.0% [4.0, 23.1], while setting0, "
                "the last that stays, has 87.5%"
            )
            for line in said
        )
        == 1
    )
    # Without the flag the same sweep takes the loser to its end too.
    assert state(members[1], halving_of(members)) == "step 1 of 2"
    assert run_all(members) == Unfinished([], [])
    assert state(members[1], halving_of(members)) == "finished"


def test_a_single_run_of_a_sweep_waits_where_the_others_have_not_come(paused):
    members, said = paused(35, 4), []
    for member, waiting in zip(members, ([members[0]], []), strict=True):
        assert run_members([member], [{}], halving_of(members, 1), said.append) == Unfinished([], waiting)
    assert "0: setting0, seed 0: waits after step 1" in said
    assert run_members(members[:1], [{}], halving_of(members, 1), said.append) == Unfinished([], [])
    assert [state(each, halving_of(members, 1)) for each in members] == ["finished", "stopped after step 1"]


def test_a_single_run_does_not_wait_for_one_that_failed_in_another_process(paused):
    """Three tasks of a job array: the last fails before it could be judged; that is forgotten once it starts again."""
    members, said = paused(4, 35, 35), []
    mark = failure_mark(members[2].workdir)

    def task(index, *arguments):
        member = members[index]._replace(arguments=arguments or members[index].arguments)
        unfinished = run_members([member], [{}], halving_of(members, 1), said.append)
        return [[each.index for each in kind] for kind in unfinished]

    assert task(2, "-c", "raise SystemExit('went wrong')") == [[2], []]
    assert task(0) == [[], [0]]
    assert task(1) == [[], []]
    assert [state(each, halving_of(members, 1)) for each in members] == ["stopped after step 1", "finished", "to do"]
    assert mark.exists()
    assert task(2, "-c", f"import os; os._exit(1 if os.path.exists({str(mark)!r}) else 75)") == [[], [2]]
    assert not mark.exists()

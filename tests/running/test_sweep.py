"""Children of a sweep: slots, failures that stop nobody else, and one process a run folder."""

import os
import signal
import subprocess
import sys
import time

import pytest

from jaxrl.running import sweep
from jaxrl.running.sweep import Member, run_members, state

# A run made of plain Python: says its device, writes checkpoint and export of step 2, or fails.
CHILD = """
import os, pathlib, sys, time
folder, works = pathlib.Path(sys.argv[1]), sys.argv[2] == "works"
print("first line", os.getpid(), *range(20), os.environ.get("CUDA_VISIBLE_DEVICES"), sep="\\n", flush=True)
(folder / "checkpoints" / "2" / "state").mkdir(parents=True, exist_ok=True)
time.sleep(float(sys.argv[3]))
if not works:
    sys.exit("went wrong")
(folder / "export").mkdir()
"""


@pytest.fixture
def member(tmp_path):
    (tmp_path / "child.py").write_text(CHILD)

    def make(index, works=True, seconds=0.0):
        folder = tmp_path / f"run{index}"
        arguments = (str(tmp_path / "child.py"), str(folder), "works" if works else "fails", str(seconds))
        return Member(index, f"setting{index}", 0, folder, "model", 2, True, arguments)

    return make


def test_a_run_that_fails_is_named_with_its_last_lines_and_the_others_go_on(member):
    said = []
    members = [member(0), member(1, works=False), member(2)]
    assert run_members(members, [{}], said.append) == [members[1]]
    (told,) = (text for text in said if "ended with status 1" in text)
    assert told.startswith("1: setting1, seed 0: ") and told.endswith("went wrong") and "first line" not in told
    assert [state(each) for each in members] == ["finished", "step 2 of 2", "finished"]
    assert run_members(members[:1], [{}], said.append) == []
    assert said[-1] == "0: setting0, seed 0: finished before"


def test_each_slot_has_one_run_at_a_time(member):
    members = [member(index, seconds=0.3) for index in range(4)]
    assert run_members(members, [{"CUDA_VISIBLE_DEVICES": "5"}, {"CUDA_VISIBLE_DEVICES": "7"}], lambda line: None) == []
    used = [each.log.read_text().split()[-1] for each in members]
    assert sorted(used) == ["5", "5", "7", "7"]


def test_what_another_process_runs_is_left_alone(member):
    one, said = member(0), []
    one.log.parent.mkdir()
    holder = sweep._open_locked(one.log)
    assert state(one) == "running"
    assert run_members([one], [{}], said.append) == [one]
    assert "another process is running it" in said[0] and not one.workdir.exists()
    os.close(holder)
    assert state(one) == "to do"


def test_a_child_keeps_its_folder_when_the_sweep_is_killed(member):
    """SIGKILL leaves no time to end the child: it writes on, and a sweep started again must not write beside it."""
    one = member(0, seconds=600)
    code = f"from pathlib import PosixPath; from jaxrl.running.sweep import *; run_members([{one}], [{{}}], print)"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    while not (one.workdir / "checkpoints").exists():
        assert parent.poll() is None
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    try:
        assert state(one) == "running"
    finally:
        os.kill(int(one.log.read_text().splitlines()[1]), signal.SIGKILL)

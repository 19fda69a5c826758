"""Atomic writes: two processes may write the same file, and what a killed one leaves is deleted."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxrl.reporting.files import open_atomic
from jaxrl.reporting.rollouts import drop_rollouts_after
from jaxrl.reporting.run_folder import drop_evaluations_after

ROOT = Path(__file__).parents[2]
WRITER = "import sys; from jaxrl.reporting.files import write_text; write_text(sys.argv[1], 'theirs')"
KILLED = f"import os; os.fsync = lambda _: os.kill(os.getpid(), 9); {WRITER}"


def write(path, code):
    return subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT).returncode


def test_two_processes_write_the_same_file_and_a_reader_sees_one_version(tmp_path):
    path = tmp_path / "stopped.json"
    with open_atomic(path) as stream:
        stream.write(b"our")
        assert write(path, WRITER) == 0
        assert path.read_text() == "theirs"
        stream.write(b"s")
    assert path.read_text() == "ours" and [entry.name for entry in tmp_path.iterdir()] == ["stopped.json"]


@pytest.mark.parametrize(
    ("name", "drop"),
    [
        ("evaluations/after.json", lambda workdir: drop_evaluations_after(workdir, 2)),
        ("rollouts/step_000001.jsonl.gz", lambda workdir: drop_rollouts_after(workdir / "rollouts", 2)),
    ],
)
def test_the_file_of_a_killed_writer_is_deleted_when_the_run_resumes(tmp_path, name, drop):
    assert write(tmp_path / name, KILLED) == -signal.SIGKILL
    (partial,) = (tmp_path / name).parent.iterdir()
    assert partial.name.startswith(Path(name).name) and partial.suffix == ".partial"
    drop(tmp_path)
    assert not partial.exists()

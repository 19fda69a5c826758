"""A file that is written whole: two processes may write the same, and what a killed one leaves is cleared."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxrl.reporting.files import written_whole
from jaxrl.reporting.rollouts import drop_rollouts_after
from jaxrl.reporting.run_folder import drop_evaluations_after

ROOT = Path(__file__).parents[2]
WRITER = "import sys; from jaxrl.reporting.files import write_text; write_text(sys.argv[1], 'theirs')"
KILLED = f"import os; os.fsync = lambda _: os.kill(os.getpid(), 9); {WRITER}"


def write(path, code):
    return subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT).returncode


def test_two_processes_write_the_same_file_and_a_reader_meets_one_of_them_whole(tmp_path):
    path = tmp_path / "stopped.json"
    with written_whole(path) as stream:
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
def test_what_a_killed_writer_left_is_cleared_when_the_run_goes_on(tmp_path, name, drop):
    assert write(tmp_path / name, KILLED) == -signal.SIGKILL
    (half,) = (tmp_path / name).parent.iterdir()
    assert half.name.startswith(Path(name).name) and half.suffix == ".partial"
    drop(tmp_path)
    assert not half.exists()

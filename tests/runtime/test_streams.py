"""Output that cannot be written is dropped, and does not end the run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxrl.runtime.streams import drop_write_errors

ROOT = Path(__file__).parents[2]
# Shows a run on standard output.
SHOWN = """
import sys
from jaxrl.runtime.streams import drop_write_errors
from jaxrl.reporting.terminal import Terminal
sys.stdout = drop_write_errors(sys.stdout)
with Terminal(1) as terminal:
    terminal.log("a sentence")
    terminal.step({"step": 1})
    print("a line", flush=True)
print("the end")
"""


@pytest.fixture
def gone():
    """A pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.fixture
def full():
    with open("/dev/full", "wb") as file:
        yield file


@pytest.mark.parametrize("place", ["full", "gone"])
def test_a_run_ends_well_if_its_output_cannot_be_written(request, place):
    shown = subprocess.run(
        [sys.executable, "-c", SHOWN],
        cwd=ROOT,
        stdout=request.getfixturevalue(place),
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": ""},
    )
    assert (shown.returncode, shown.stderr) == (0, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_keeps_its_order(unbuffered):
    shown = subprocess.run(
        [sys.executable, "-c", SHOWN],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )
    lines = shown.stdout.splitlines()
    assert [lines[0], lines[1].split("  ")[0], *lines[2:]] == ["a sentence", "step 1/1", "a line", "the end"]


def test_a_stream_without_a_file_is_unchanged(capsys):
    assert drop_write_errors(sys.stdout) is sys.stdout and drop_write_errors(None) is None

"""What can't be shown is not shown, and ends nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxrl.runtime.streams import unfailing

ROOT = Path(__file__).parents[2]
# Shows a run on standard output, beginning to end.
SHOWN = """
import sys
from jaxrl.runtime.streams import unfailing
from jaxrl.reporting.terminal import Terminal
sys.stdout = unfailing(sys.stdout)
with Terminal(1) as terminal:
    terminal.say("a sentence")
    terminal.step({"step": 1})
    print("a line", flush=True)
print("the end")
"""


@pytest.fixture
def gone():
    """A pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.fixture
def full():
    with open("/dev/full", "wb") as file:
        yield file


@pytest.mark.parametrize("place", ["full", "gone"])
def test_a_run_is_shown_where_nothing_can_be_written_and_ends_well(request, place):
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
def test_elsewhere_every_line_is_shown_in_its_order(unbuffered):
    shown = subprocess.run(
        [sys.executable, "-c", SHOWN],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )
    lines = shown.stdout.splitlines()
    assert [lines[0], lines[1].split("  ")[0], *lines[2:]] == ["a sentence", "step 1/1", "a line", "the end"]


def test_a_stream_without_a_file_stays_as_it_is(capsys):
    assert unfailing(sys.stdout) is sys.stdout and unfailing(None) is None

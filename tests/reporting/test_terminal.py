"""A live panel on a terminal, plain lines elsewhere."""

import io

import pytest
from rich.console import Console

from jaxrl.reporting.terminal import Terminal, duration, sparkline


def play(force_terminal, more=()):
    stream, now = io.StringIO(), [0.0]
    console = Console(file=stream, width=120, force_terminal=force_terminal, color_system=None)
    with Terminal(30, console=console, clock=lambda: now[0]) as terminal:
        terminal.stage("one", 1, 30)
        for step in range(1, 6):
            now[0] += 4.0
            terminal.phase("rollout", 3, 16)
            terminal.step(
                {
                    "step": step,
                    "reward/mean": step / 8,
                    "share/correct": 0.25,
                    "share/bad_format": float("nan"),
                    "length/mean": 61.4,
                    "warnings": ["[bold]entropy is falling"] if step == 2 else [],
                    **dict(more),
                }
            )
        panel = Console(file=io.StringIO(), width=120, color_system=None)
        panel.print(terminal.render())
    return stream.getvalue(), panel.file.getvalue()


def test_plain_lines_without_terminal():
    written, _ = play(force_terminal=False)
    lines = written.splitlines()
    assert lines[0] == "stage one: steps 1 to 30 of 30"
    assert lines[1].split("  ") == [
        "one",
        "step 1/30",
        "reward +0.12",
        "accuracy 25.0%",
        "format errors nan",
        "mean length 61",
        "4.0 s",
        "ETA 1 min 56 s",
    ]
    assert lines[3] == "warning: [bold]entropy is falling"  # markup is not interpreted
    assert len(lines) == 7
    assert "\x1b" not in written


def test_panel_shows_stage_step_phase_eta_and_curves():
    written, panel = play(force_terminal=True)
    for text in (
        "one (1 to 30)",
        "step 5 of 30",
        "ETA 1 min 40 s",
        "rollout",
        "3/16",
        "+0.62",
        "▁▃▅▇█",
    ):
        assert text in panel
    assert "[bold]entropy is falling" in written


def test_panel_says_compiling_instead_of_the_phase_while_the_run_waits_for_the_compiler():
    terminal = Terminal(30)
    terminal.phase("update")
    for compiling, shown in ((True, "compiling"), (False, "update")):
        terminal.compiling = compiling
        panel = Console(file=io.StringIO(), width=120, color_system=None)
        panel.print(terminal.render())
        assert [word for word in ("compiling", "update") if word in panel.file.getvalue()] == [shown]


def test_sound_is_shown_beside_accuracy_where_it_is_measured():
    written, panel = play(force_terminal=False, more={"share/sound": 0.125})
    assert "accuracy 25.0%  sound 12.5%  format errors" in written
    assert "12.5%" in next(line for line in panel.splitlines() if "sound" in line)
    assert not any("sound" in text for text in play(force_terminal=False))


def test_header_of_a_long_run_fits_into_80_columns():
    panel = Console(file=io.StringIO(), width=80, color_system=None)
    now = [0.0]
    terminal = Terminal(400, console=Console(quiet=True), clock=lambda: now[0])
    terminal.stage("stage2", 51, 300)
    now[0] += 36_000
    terminal.step({"step": 124})
    panel.print(terminal.render())
    assert "stage2 (51 to 300)  step 124 of 400  ETA 2760 h 00 min  running 10 h 00 min" in panel.file.getvalue()


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ([], ""),
        ([1, 1, 1], "▄▄▄"),
        ([0, 1], "▁█"),
        ([0, 0, 1, 1, 2, 2, 3, 3], "▁▃▆█"),
    ],
)
def test_sparkline(values, bars):
    assert sparkline(values, 4) == bars


def test_duration():
    assert [duration(s) for s in (None, 9.6, 61, 4210)] == ["-", "10 s", "1 min 01 s", "1 h 10 min"]

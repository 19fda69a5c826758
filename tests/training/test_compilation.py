"""Compiling ahead in a second thread changes no number; the run says how much it compiled."""

import re
import threading

import numpy as np

from jaxrl.reporting.run_folder import read_metrics
from jaxrl.training import compilation


def test_a_run_that_compiles_ahead_has_the_same_numbers_and_compiles_no_more_of_the_update(
    small, whole, judged, tmp_path
):
    run = small.run(small.fields(tmp_path / "run", {"layout.compile_ahead": True}))
    run.train()
    assert small.numbers(tmp_path / "run") == small.numbers(whole[1])
    for mine, theirs in zip(small.params(tmp_path / "run"), small.params(whole[1]), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    update = run.components.update
    assert set(update.traces.values()) == {1} and set(update.traces) == set(update.spec.layout.shapes(1))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("compile")]


def test_records_and_the_last_line_say_what_was_compiled(small, whole):
    records = read_metrics(whole[1] / "metrics.jsonl")[1:]
    programs = [record["compiled/programs"] for record in records]
    assert programs == sorted(programs) and 0 <= records[0]["compiled/loaded"] <= programs[0]
    assert all(0 <= record["time/compile"] < record["time/step"] for record in records)
    assert records[0]["time/compile"] > 0 < records[0]["compiled/seconds"]


def test_the_panel_shows_when_the_run_compiles(small, tmp_path):
    terminal = small.run(small.fields(tmp_path / "run")).terminal
    lines, shown = [], []
    terminal.log = lines.append
    with compilation.show_compilation(terminal):
        monitor = compilation.compile_monitor()
        with monitor.waiting():
            shown.append(terminal.compiling)
        shown.append(terminal.compiling)
    assert shown == [True, False]
    assert re.fullmatch(r"\d+ programs, \d+ of them from the compilation cache: \d+ s of compiling, .*", lines[0])
    with monitor.waiting():
        assert not terminal.compiling

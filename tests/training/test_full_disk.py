"""A full disk: a run survives it for a while, and otherwise ends with a sentence and a complete checkpoint."""

import errno
import os
import signal
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from fixtures.recovery import SPARSE, STEPS, assert_same_run

from jaxrl.checkpointing.retrying_writer import RetryingWriter
from jaxrl.runtime.signals import Stopped
from jaxrl.training import run_log, trainer
from jaxrl.training.step import Step

pytestmark = pytest.mark.slow

RESUME = "The last checkpoint is complete: make room on the disk, then run the same command again to resume."


def refuse(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_writes_are_retried_in_order_until_patience_is_used_up():
    """The count starts again when everything is written."""
    warnings, written, full = [], [], [True]
    writer = RetryingWriter(2, warnings.append)

    def write(name):
        if full[0]:
            refuse()
        written.append(name)

    for name in ("first", "second"):
        writer.add(name, partial(write, name))
    for _ in range(2):
        writer.flush("after step 5")
        writer.succeed()  # of something else: the queue is not empty
    assert warnings == [
        "warning: first cannot be written: No space left on device. The run continues from memory; next attempt after "
        f"step 5 (failure {count} of 2 allowed by checkpoint.patience)."
        for count in (1, 2)
    ]
    full[0] = False
    writer.flush("")
    writer.succeed()
    assert written == ["first", "second"] and writer.is_empty
    full[0] = True
    writer.add("third", partial(write, "third"))
    for _ in range(2):
        writer.flush("")
    with pytest.raises(OSError, match=f"third cannot be written: No space left on device. {RESUME}"):
        writer.flush("")


def test_the_last_write_is_not_retried():
    writer = RetryingWriter(9, print)
    writer.add("the metrics of step 6", refuse)
    with pytest.raises(OSError, match=f"the metrics of step 6 cannot be written: No space left on device. {RESUME}"):
        writer.flush("", final=True)
    with pytest.raises(OSError, match=f"the rejected step cannot be written: No space left on device. {RESUME}"):
        writer.write_now("the rejected step", refuse)


@pytest.fixture(params=["on start", "on rename"])
def full(request, monkeypatch):
    """A disk with no room for the checkpoints of `steps`; `started` are the steps of all saves.

    The save fails when it starts, or in the background after the last byte, which the run learns at the next step.
    """
    save, rename, full = trainer.Checkpoints.save, os.rename, SimpleNamespace(steps=(), started=[])

    def save_or_fail(self, step, *args, **kwargs):
        full.started.append(step)
        if step in full.steps and request.param == "on start":
            raise OSError(errno.ENOSPC, "no space left in the folder; free some space")
        return save(self, step, *args, **kwargs)

    def rename_or_fail(source, target):
        if Path(target).name in map(str, full.steps):
            refuse()
        return rename(source, target)

    monkeypatch.setattr(trainer.Checkpoints, "save", save_or_fail)
    monkeypatch.setattr(os, "rename", rename_or_fail)
    # Writes end at the end of the next step, on any machine.
    monkeypatch.setattr(trainer.Checkpoints, "poll", lambda self: self.wait() is None)
    return full


def test_a_disk_that_is_full_for_a_while_costs_nothing(small, whole, judged, full, tmp_path):
    """The saves of steps 2 and 3 fail; the run warns, continues from memory and saves at step 4."""
    full.steps = (2, 3)
    small.run(small.fields(tmp_path / "run", SPARSE)).train()
    assert full.started == [2, 3, 4, 6]
    warnings = [line for line in small.logged if "continues from memory" in line]
    for line, step in zip(warnings, (2, 3), strict=True):
        assert line.startswith(f"warning: the checkpoint of step {step} cannot be written: no space left in")
        assert f"next attempt after step {step + 1} (failure {step - 1} of 5" in line
    assert_same_run(small, tmp_path / "run", whole[1])


def test_the_guard_rolls_back_to_a_checkpoint_that_was_written_late(small, judged, full, poisoned, tmp_path):
    """The save of step 2 fails and is repeated at step 3; the guard's trip at step 4 undoes only that step."""
    full.steps = (2,)
    small.run(small.fields(tmp_path / "run", SPARSE)).train()
    assert any("rejected step 4" in line and "Rolled back to step 3" in line for line in small.logged)


def test_a_disk_that_stays_full_ends_the_run_with_the_last_checkpoint_complete(small, whole, judged, full, tmp_path):
    full.steps = range(3, 9)
    fields = small.fields(tmp_path / "run", {**SPARSE, "checkpoint.patience": 1})
    with pytest.raises(OSError, match=rf"step 5 cannot be written: .* free some space. {RESUME}"):
        small.run(fields).train()
    assert full.started == [2, 4, 5]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["2"]
    full.steps = ()
    small.run(fields).train()
    assert "resuming after step 2" in small.logged
    assert_same_run(small, tmp_path / "run", whole[1])


@pytest.mark.parametrize("failing", [5, 6])
def test_a_run_does_not_end_before_its_last_checkpoint_is_complete(small, whole, judged, full, tmp_path, failing):
    """Of the saves of the last two steps the first may fail, the second may not."""
    full.steps = (failing,)
    fields = small.fields(tmp_path / "run", {"checkpoint.patience": 1})
    if failing == STEPS:
        with pytest.raises(OSError, match=rf"step 6 cannot be written: .* free some space. {RESUME}"):
            small.run(fields).train()
        assert not (tmp_path / "run" / "export").exists()
        full.steps = ()
        small.run(fields).train()
        assert "resuming after step 5" in small.logged
    else:
        small.run(fields).train()
    assert_same_run(small, tmp_path / "run", whole[1])


@pytest.fixture
def full_at(monkeypatch):
    """`full_at(owner, name, steps)`: this function cannot write at the end of these steps."""
    seen, collect = [], Step.collect

    def collect_and_note(self, state, reference, plan, timed):
        seen.append(plan.step)
        return collect(self, state, reference, plan, timed)

    def full_at(owner, name, steps):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args: refuse() if seen and seen[-1] in steps else real(*args))

    monkeypatch.setattr(Step, "collect", collect_and_note)
    return full_at


FILES = pytest.mark.parametrize(
    ("owner", "name", "what"),
    [
        (run_log, "write_rollouts", "the rollouts"),
        (run_log.JsonlWriter, "write", "the metrics"),
        (run_log, "write_evaluation", "the evaluation"),
    ],
)


@pytest.fixture(scope="module")
def evaluated(small, judged, tmp_path_factory):
    """A run with an evaluation at step 4."""
    workdir = tmp_path_factory.mktemp("evaluated") / "run"
    small.run(small.fields(workdir, {**SPARSE, "evaluation.every": 4})).train()
    return workdir


@FILES
def test_a_checkpoint_waits_until_the_lines_of_its_steps_are_written(
    small, judged, evaluated, full_at, tmp_path, owner, name, what
):
    """At the end of steps 4 and 5 there is no room for lines, so the checkpoint of step 4 is not made."""
    full_at(owner, name, (4, 5))
    small.run(small.fields(tmp_path / "run", {**SPARSE, "evaluation.every": 4})).train()
    assert [line for line in small.logged if "continues from memory" in line] == [
        f"warning: {what} of step 4 cannot be written: No space left on device. The run continues from memory; next "
        f"attempt after step {step + 1} (failure {step - 3} of 5 allowed by checkpoint.patience)."
        for step in (4, 5)
    ]
    assert sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()) == [2, 6]
    assert_same_run(small, tmp_path / "run", evaluated)


@FILES
def test_a_run_that_cannot_write_its_lines_ends_and_can_be_resumed(
    small, evaluated, judged, full_at, tmp_path, owner, name, what
):
    fields = small.fields(tmp_path / "run", {**SPARSE, "evaluation.every": 4, "checkpoint.patience": 1})
    refused = {4, 5}
    full_at(owner, name, refused)
    with pytest.raises(OSError, match=f"{what} of step 4 cannot be written: No space left on device. {RESUME}"):
        small.run(fields).train()
    refused.clear()
    small.run(fields).train()
    assert "resuming after step 2" in small.logged
    assert [record["step"] for record in small.numbers(tmp_path / "run")] == list(range(STEPS + 1))
    assert_same_run(small, tmp_path / "run", evaluated)


def test_a_rejected_step_that_cannot_be_stored_ends_the_run(small, whole, judged, full_at, monkeypatch, tmp_path):
    fields, refused = small.fields(tmp_path / "run", SPARSE), {4}
    full_at(trainer, "store_rejected_step", refused)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "find_cause", lambda spec, record: "too wild." if record["step"] == 4 else "")
        with pytest.raises(OSError, match=f"the rejected step 4 cannot be written: No space .* {RESUME}"):
            small.run(fields).train()
    refused.clear()
    small.run(fields).train()
    assert "resuming after step 2" in small.logged
    assert_same_run(small, tmp_path / "run", whole[1])


@pytest.mark.parametrize("complete", [2, 0])
def test_the_guard_waits_for_the_write_in_progress(
    small, judged, poisoned, poisoned_run, tmp_path, monkeypatch, complete
):
    """The write of checkpoint 2 is delayed until the guard waits for it, at step 4. Then it ends, or fails."""
    rename, rejected, reject, delayed = os.rename, threading.Event(), trainer.Trainer._reject, []

    def rename_late(source, target):
        if Path(target).name == "2" and not delayed:
            delayed.append(target)
            assert rejected.wait(60)
            if not complete:
                refuse()
        return rename(source, target)

    def reject_and_release(*args):
        rejected.set()
        return reject(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename_late)
        patch.setattr(trainer.Trainer, "_reject", reject_and_release)
        small.run(small.fields(tmp_path / "run", {**SPARSE, "evaluation.every": 3})).train()
    assert any(f"Rolled back to step {complete}" in line for line in small.logged)
    warnings = [line for line in small.logged if "the checkpoint of step 2 cannot be written: no space left" in line]
    assert [line.split("next attempt ")[1][:19] for line in warnings] == ["after the next step"] * (complete == 0)
    if complete:
        assert_same_run(small, tmp_path / "run", poisoned_run[0])


def test_a_save_that_failed_unnoticed_is_repeated_at_a_signal(small, whole, judged, tmp_path, monkeypatch):
    """The signal comes during the rollout of step 5, while the write of checkpoint 4 fails."""
    rename, collect, failed = os.rename, Step.collect, []

    def rename_or_fail(source, target):
        if Path(target).name == "4" and not failed:
            failed.append(target)
            refuse()
        return rename(source, target)

    def interrupted(self, state, reference, plan, timed):
        if plan.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return collect(self, state, reference, plan, timed)

    fields = small.fields(tmp_path / "run", SPARSE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename_or_fail)
        patch.setattr(Step, "collect", interrupted)
        with pytest.raises(Stopped, match="after step 4"):
            small.run(fields).train()
    assert failed
    small.run(fields).train()
    assert "resuming after step 4" in small.logged
    assert_same_run(small, tmp_path / "run", whole[1])

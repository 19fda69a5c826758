"""Drills: what a run does when a step goes wrong, a disk is full, a signal comes, or a stage is done early."""

import errno
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jaxrl.reporting.rollouts import read_rollouts, rollout_path
from jaxrl.reporting.run_folder import read_run
from jaxrl.runtime.signals import Ended, Interrupts, Stopped
from jaxrl.training import run_log as ledger
from jaxrl.training import step as steps
from jaxrl.training import trainer as loop
from jaxrl.training.guard import dump
from jaxrl.training.replay import replay
from jaxrl.training.workdir import claimed

STEPS = 6
SPARSE = {"checkpoint.every": 2, "checkpoint.keep": 9}


def same_run(small, mine, theirs):
    assert small.numbers(mine) == small.numbers(theirs)
    for first, second in zip(small.params(mine), small.params(theirs), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.fixture
def poisoned(monkeypatch):
    """A batch whose advantages are not numbers, at step 4 of the first draw."""
    real = steps.Steps.draw

    def draw(self, state, reference, plan):
        drawn = real(self, state, reference, plan)
        if plan.step == 4 and plan.draw == 0:
            drawn = drawn._replace(batch=drawn.batch._replace(advantages=np.full_like(drawn.batch.advantages, np.nan)))
        return drawn

    monkeypatch.setattr(steps.Steps, "draw", draw)


def test_a_poisoned_batch_is_undone_kept_and_drawn_anew(small, whole, judged, poisoned, tmp_path, monkeypatch):
    """Back to the checkpoint of step 2; steps 1 and 2 are those of the run that met no poison, 3 to 6 are others."""
    real = loop.Ledger.cut_back

    def cut_back(self, done):
        real(self, done)
        left.append(sorted(path.stem for path in (tmp_path / "run" / "evaluations").glob("*")))

    left = []
    monkeypatch.setattr(loop.Ledger, "cut_back", cut_back)
    small.run(small.fields(tmp_path / "run", {**SPARSE, "evaluation.every": 3})).train()
    assert left == [[], ["before"]]
    assert any("refused step 4: loss/total is nan" in line and "Back to step 2" in line for line in small.said)
    mine, theirs = small.numbers(tmp_path / "run"), small.numbers(whole[1])
    assert [record["step"] for record in mine] == list(range(STEPS + 1))
    assert mine[:3] == theirs[:3]
    assert [record["guard/trips"] for record in mine[1:]] == [0, 0, 1, 1, 1, 1]
    assert [record["guard/draw"] for record in mine[1:]] == [0, 0, 1, 1, 1, 1]
    assert all(np.isfinite(record["gradient_norm"]) for record in mine[1:])
    texts = [
        [
            response.response
            for group in read_rollouts(rollout_path(folder / "rollouts", 3))
            for response in group.responses
        ]
        for folder in (tmp_path / "run", whole[1])
    ]
    assert texts[0] != texts[1]
    kept = tmp_path / "run" / "guard" / "trip_1"
    assert np.isnan(np.load(kept / "step_000004.npz")["advantages"]).all()
    assert read_rollouts(kept / "step_000004.jsonl.gz")[0].responses[0].advantage is None


def train_until(small, fields, monkeypatch, last, trips):
    """Train, and die behind the line of step `last` that is written after so many trips."""
    real = loop.Ledger.write

    def dies(self, record):
        real(self, record)
        if record["step"] == last and record["guard/trips"] == trips:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.Ledger, "write", dies)
        with pytest.raises(KeyboardInterrupt):
            small.run(fields).train()


def test_a_run_with_a_trip_is_resumed_exactly_and_drawn_again(small, judged, poisoned, tmp_path, monkeypatch):
    """Law 2 across a trip: killed after it, before the next checkpoint and behind it."""
    small.run(small.fields(tmp_path / "whole", SPARSE)).train()
    fields = small.fields(tmp_path / "run", SPARSE)
    for last in (3, 5):
        train_until(small, fields, monkeypatch, last, trips=1)
    run = small.run(fields)
    run.train()
    same_run(small, tmp_path / "run", tmp_path / "whole")
    assert replay(run, 5, 1, 2).identical


@pytest.mark.parametrize(("every", "later", "back"), [(2, 2, 2), (2, 4, 2), (9, 9, 0)])
def test_a_stop_between_the_checkpoint_and_a_trip_changes_nothing(
    small, judged, poisoned, tmp_path, monkeypatch, every, later, back
):
    """Saved at a signal after step 3; the trip at 4 goes back to what was due before all the same, also where
    checkpoint.every has changed meanwhile, and a kill there leaves no trace."""
    small.run(small.fields(tmp_path / "whole", {**SPARSE, "checkpoint.every": every})).train()
    assert any(f"Back to step {back}" in line for line in small.said)
    real, fields = steps.Steps.draw, small.fields(tmp_path / "run", {**SPARSE, "checkpoint.every": every})

    def disturbed(self, state, reference, plan):
        if plan.draw == 1:
            raise KeyboardInterrupt
        if plan.step == 4 and "going on after step 3" not in small.said:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, state, reference, plan)

    with monkeypatch.context() as patch:
        patch.setattr(steps.Steps, "draw", disturbed)
        with pytest.raises(Stopped):
            small.run(fields).train()
        fields["checkpoint"]["every"] = later
        with pytest.raises(KeyboardInterrupt):
            small.run(fields).train()
    assert "going on after step 3" in small.said
    small.run(fields).train()
    assert [line for line in small.said if "going on after" in line] == [f"going on after step {back}"] * (back > 0)
    same_run(small, tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(("every", "refused"), [(0, 4), (3, 3)])
def test_weights_that_are_broken_are_given_back(small, whole, judged, tmp_path, monkeypatch, every, refused):
    """Parameters that became infinite show in the next logits, of a rollout or of the step's own evaluation; the run
    goes back and goes on, and nothing of the step stays."""
    real = steps.Steps.learn
    broken = []

    def learn(self, state, plan, drawn):
        state, record = real(self, state, plan, drawn)
        if plan.step == 3 and not broken:
            broken.append(plan.step)
            state = state._replace(params=steps.jax.tree.map(lambda x: x * np.float32(np.inf), state.params))
        return state, record

    monkeypatch.setattr(steps.Steps, "learn", learn)
    small.run(small.fields(tmp_path / "run", {**SPARSE, "evaluation.every": every})).train()
    assert any(f"refused step {refused}" in line and "Back to step 2" in line for line in small.said)
    records = small.numbers(tmp_path / "run")
    assert [record["step"] for record in records] == list(range(STEPS + 1))
    assert {record["guard/trips"] for record in records[3:]} == {1}
    assert all(np.isfinite(leaf).all() for leaf in small.params(tmp_path / "run"))


@pytest.mark.parametrize(("changes", "trips"), [({"guard.remedy": "stop"}, 1), ({"guard.retries": 2}, 3)])
def test_the_guard_gives_up_with_its_reason(small, judged, tmp_path, changes, trips):
    """A bound that nothing can keep: the remedy is tried so often, then the run ends; its checkpoints are whole."""
    fields = small.fields(tmp_path / "run", {**changes, "guard.length_max": 1.0})
    with pytest.raises(Ended, match=r"step 1: the mean length .* over guard.length_max = 1: .* start the same command"):
        small.run(fields).train()
    assert len(list((tmp_path / "run" / "guard").iterdir())) == trips
    assert [record["step"] for record in small.numbers(tmp_path / "run")] == [0]
    small.run(small.fields(tmp_path / "run")).train()  # the bound taken away, the same folder goes on
    assert len(small.numbers(tmp_path / "run")) == STEPS + 1
    assert read_run(tmp_path / "run").trips == []  # and nobody reads of steps that stayed in the end


def test_a_trip_is_kept_without_what_another_of_its_number_left(tmp_path):
    """A run that was killed behind a trip trips again, perhaps at another step."""
    dump(tmp_path / "trip_1", 3, "too long.", {"step": 3}, None, [])
    (tmp_path / "trip_1" / "step_000003.npz").touch()
    dump(tmp_path / "trip_1", 4, "too short.", {"step": 4}, None, [])
    assert [path.name for path in (tmp_path / "trip_1").iterdir()] == ["cause.json"]


def test_a_rate_is_lowered_for_the_rest_of_the_run(small, whole, judged, tmp_path, monkeypatch):
    real, seen = loop.find_cause, []

    def once(spec, record):
        seen.append(record["step"])
        return "too wild." if seen.count(3) == 1 and record["step"] == 3 else real(spec, record)

    monkeypatch.setattr(loop, "find_cause", once)
    small.run(small.fields(tmp_path / "run", {**SPARSE, "guard.remedy": "rate", "guard.factor": 0.25})).train()
    mine, theirs = (
        [record["learning_rate"] for record in small.numbers(folder)[1:]] for folder in (tmp_path / "run", whole[1])
    )
    assert mine == [*theirs[:2], *(0.25 * rate for rate in theirs[2:])]


def test_one_and_the_same_reward_is_a_warning_and_no_harm(small, tmp_path, monkeypatch):
    """No advantage anywhere: nothing to learn, nothing that breaks."""
    real = loop.PromptFormat.judge
    monkeypatch.setattr(
        loop.PromptFormat, "judge", lambda *args: real(*args)._replace(verdict="bad_format", reward=-3.0)
    )
    small.run(small.fields(tmp_path / "run")).train()
    records = small.numbers(tmp_path / "run")[1:]
    assert all("every group got one and the same reward" in " ".join(record["warnings"]) for record in records)
    assert all(np.isfinite(leaf).all() for leaf in small.params(tmp_path / "run"))
    assert [record["guard/trips"] for record in records] == [0] * STEPS


@pytest.fixture(params=["asked", "written"])
def full(request, monkeypatch):
    """A disk that has no room for the checkpoints of `steps`; `tried` are those begun. That is told when the run asks
    for room, or found when the last byte is written: until then the next step is done."""
    save, rename, full = loop.Checkpoints.save, os.rename, SimpleNamespace(steps=(), tried=[])

    def asked(self, step, *args, **kwargs):
        full.tried.append(step)
        if step in full.steps and request.param == "asked":
            raise OSError(errno.ENOSPC, "no space left for a checkpoint: free some space")
        return save(self, step, *args, **kwargs)

    def written(source, target):
        if Path(target).name in map(str, full.steps):
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(source, target)

    monkeypatch.setattr(loop.Checkpoints, "save", asked)
    monkeypatch.setattr(os, "rename", written)
    # Writes end at the end of the next step, whatever the machine.
    monkeypatch.setattr(loop.Checkpoints, "poll", lambda self: self.wait() is None)
    return full


def test_a_disk_that_is_full_for_a_while_costs_nothing(small, whole, judged, full, tmp_path):
    """The saves of steps 2 and 3 fail: the run says so, goes on from memory and saves at step 4."""
    full.steps = (2, 3)
    small.run(small.fields(tmp_path / "run", SPARSE)).train()
    assert full.tried == [2, 3, 4, 6]
    said = [line for line in small.said if "going on from memory" in line]
    for line, step in zip(said, (2, 3), strict=True):
        assert line.startswith(f"warning: checkpoint of step {step}: no space left for a checkpoint")
        assert f"next try after step {step + 1} ({step - 1} of 5 failed tries" in line
    same_run(small, tmp_path / "run", whole[1])


def test_a_checkpoint_that_was_made_late_is_gone_back_to(small, judged, full, poisoned, tmp_path):
    """That of step 2 fails and is made at step 3; the trip at 4 undoes no more than that step."""
    full.steps = (2,)
    small.run(small.fields(tmp_path / "run", SPARSE)).train()
    assert any("refused step 4" in line and "Back to step 3" in line for line in small.said)


def test_a_disk_that_stays_full_ends_the_run_with_the_last_checkpoint_whole(small, whole, judged, full, tmp_path):
    full.steps = range(3, 9)
    fields = small.fields(tmp_path / "run", {**SPARSE, "checkpoint.patience": 1})
    with pytest.raises(OSError, match=r"step 5: .* free some space; then start the same command again"):
        small.run(fields).train()
    assert full.tried == [2, 4, 5]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["2"]
    full.steps = ()
    small.run(fields).train()
    assert "going on after step 2" in small.said
    same_run(small, tmp_path / "run", whole[1])


@pytest.fixture
def cramped(monkeypatch):
    """`cramped.at(place, name, steps)`: the function refuses to write at the end of these steps."""
    done, draws = [], steps.Steps.draw

    def draw(self, state, reference, plan):
        done.append(plan.step)
        return draws(self, state, reference, plan)

    def at(place, name, refused):
        real = getattr(place, name)

        def write(*args):
            if done and done[-1] in refused:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args)

        monkeypatch.setattr(place, name, write)

    monkeypatch.setattr(steps.Steps, "draw", draw)
    return SimpleNamespace(at=at)


WRITES = pytest.mark.parametrize(
    ("place", "name", "what"),
    [
        (ledger, "write_rollouts", "the rollouts"),
        (ledger.JsonlWriter, "write", "the metrics"),
        (ledger, "write_evaluation", "the evaluation"),
    ],
)


@WRITES
def test_no_room_for_a_while_holds_lines_and_checkpoints_back(small, judged, cramped, tmp_path, place, name, what):
    """At the end of steps 4 and 5: the checkpoint of step 4 waits, for it would be ahead of its lines."""
    cramped.at(place, name, (4, 5))
    small.run(small.fields(tmp_path / "run", {**SPARSE, "checkpoint.keep": 9, "evaluation.every": 4})).train()
    said = [line for line in small.said if "going on from memory" in line]
    assert said == [
        f"warning: {what} of step 4 can't be written: No space left on device; make room; going on from "
        f"memory, next try after step {step + 1} ({step - 3} of 5 failed tries that checkpoint.patience "
        "allows)."
        for step in (4, 5)
    ]
    assert sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()) == [2, 6]
    small.run(small.fields(tmp_path / "peace", {**SPARSE, "checkpoint.keep": 9, "evaluation.every": 4})).train()
    same_run(small, tmp_path / "run", tmp_path / "peace")


@WRITES
@pytest.mark.parametrize("patience", [0, 1])
def test_no_room_for_long_is_a_sentence(small, whole, judged, cramped, tmp_path, place, name, what, patience):
    """The run ends with what could not be written; the same command goes on from the checkpoint before."""
    fields = small.fields(tmp_path / "run", {**SPARSE, "evaluation.every": 4, "checkpoint.patience": patience})
    refused = {4, 5}
    cramped.at(place, name, refused)
    with pytest.raises(
        OSError,
        match=rf"{what} of step 4 can't be written: No space left on device; make room; then "
        "start the same command again",
    ):
        small.run(fields).train()
    refused.clear()
    small.run(fields).train()
    assert "going on after step 2" in small.said
    assert [record["step"] for record in small.numbers(tmp_path / "run")] == list(range(STEPS + 1))
    for first, second in zip(small.params(tmp_path / "run"), small.params(whole[1]), strict=True):
        np.testing.assert_array_equal(first, second)


def test_no_room_for_a_refused_step_is_a_sentence(small, whole, judged, cramped, monkeypatch, tmp_path):
    fields, refused = small.fields(tmp_path / "run", SPARSE), {4}
    cramped.at(loop, "dump", refused)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "find_cause", lambda spec, record: "too wild." if record["step"] == 4 else "")
        with pytest.raises(OSError, match=r"the refused step 4 can't be written: No space .* start the same command"):
            small.run(fields).train()
    refused.clear()
    small.run(fields).train()
    assert "going on after step 2" in small.said
    same_run(small, tmp_path / "run", whole[1])


@pytest.mark.parametrize("begun", [5, 6])
def test_a_run_does_not_end_before_its_last_checkpoint_is_whole(small, whole, judged, full, tmp_path, begun):
    """Of the saves at the last two steps the earlier may fail, not the later."""
    full.steps = (begun,)
    fields = small.fields(tmp_path / "run", {"checkpoint.patience": 1})
    if begun == STEPS:
        with pytest.raises(OSError, match=r"step 6: .* free some space; then start the same command again"):
            small.run(fields).train()
        assert not (tmp_path / "run" / "export").exists()
        full.steps = ()
        small.run(fields).train()
        assert "going on after step 5" in small.said
    else:
        small.run(fields).train()
    same_run(small, tmp_path / "run", whole[1])


@pytest.mark.parametrize("whole_at", [2, 0])
def test_a_step_is_taken_back_to_what_is_whole(small, judged, poisoned, tmp_path, monkeypatch, whole_at):
    """The write of step 2's checkpoint is held up until the guard asks for it, at step 4; then it ends, or fails."""
    rename, asked, back = os.rename, threading.Event(), loop.Run._go_back

    def late(source, target):
        if Path(target).name == "2" and not asked.is_set():
            assert asked.wait(60)
            if whole_at == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
        return rename(source, target)

    def go_back(*args):
        asked.set()
        return back(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", late)
        patch.setattr(loop.Run, "_go_back", go_back)
        small.run(small.fields(tmp_path / "run", SPARSE)).train()
    assert any(f"Back to step {whole_at}" in line for line in small.said)
    failed = [line for line in small.said if "checkpoint of step 2: no space left" in line]
    assert [line.split("next try ")[1][:19] for line in failed] == ["after the next step"] * (whole_at == 0)
    if whole_at:
        small.run(small.fields(tmp_path / "whole", SPARSE)).train()
        same_run(small, tmp_path / "run", tmp_path / "whole")


def test_a_checkpoint_that_failed_unseen_is_made_anew_at_a_signal(small, whole, judged, tmp_path, monkeypatch):
    """The signal comes while step 5 is drawn and the checkpoint of step 4 written, in vain."""
    rename, real, failed = os.rename, steps.Steps.draw, []

    def written(source, target):
        if Path(target).name == "4" and not failed:
            failed.append(target)
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(source, target)

    def interrupted(self, state, reference, plan):
        if plan.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, state, reference, plan)

    fields = small.fields(tmp_path / "run", SPARSE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", written)
        patch.setattr(steps.Steps, "draw", interrupted)
        with pytest.raises(Stopped, match="after step 4"):
            small.run(fields).train()
    assert failed
    small.run(fields).train()
    assert "going on after step 4" in small.said
    same_run(small, tmp_path / "run", whole[1])


def test_a_signal_in_the_export_ends_it_and_the_same_command_writes_it(small, whole, judged, tmp_path, monkeypatch):
    """All is learned and saved then. The folder is still the run's own: nobody exports beside it."""
    run, workdir = whole
    exported = workdir / "export" / "model.safetensors"
    before = exported.read_bytes()

    def stopped(*_, **__):
        with pytest.raises(OSError, match="in use"), claimed(workdir, run.config):
            pass
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("jaxrl.runtime.signals.ECHO", 0)
    exported.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_params", stopped)
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"), Interrupts():
            small.run(run.config).train()
    assert not exported.exists()
    small.run(run.config).train()
    assert exported.read_bytes() == before


@pytest.mark.parametrize("place", ["draw", "learn"])
def test_a_signal_saves_the_last_finished_step(small, whole, judged, tmp_path, monkeypatch, place):
    """In a rollout the step is left undone; in the update it is finished. Step 3 has no checkpoint of its own."""
    real = getattr(steps.Steps, place)

    def interrupted(self, state, *args):
        found = real(self, state, *args)
        plan = next(arg for arg in args if isinstance(arg, steps.StepPlan))
        if plan.step == (4 if place == "draw" else 3):
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    fields = small.fields(tmp_path / "run", SPARSE)
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(steps.Steps, place, interrupted)
        with pytest.raises(Stopped, match="after step 3: stopped by SIGTERM; start the same command again"):
            small.run(fields).train()
    assert signal.getsignal(signal.SIGTERM) is before
    small.run(fields).train()
    assert "going on after step 3" in small.said
    same_run(small, tmp_path / "run", whole[1])


UNTIL = {
    "evaluation.every": 1,
    "stages.stage2.until.accuracy": 1e-9,
    "stages.stage2.until.evaluations": 1,
    "stages.stage3.until.accuracy": 1e-9,
    "stages.stage3.until.evaluations": 2,
    "checkpoint.best": 2,
    "checkpoint.every": 9,
}


@pytest.fixture(scope="module")
def early(small, judged, tmp_path_factory):
    """Stage 2 ends after one of its two steps."""
    workdir = tmp_path_factory.mktemp("early") / "run"
    run = small.run(small.fields(workdir, UNTIL))
    run.train()
    return run, workdir, list(small.said)


def test_a_stage_that_ends_early_hands_over_to_the_next(small, early):
    _, workdir, said = early
    records = small.numbers(workdir)[1:]
    assert [(record["stage"], record["stage_step"]) for record in records] == [
        ("stage1", 1),
        ("stage1", 2),
        ("stage2", 1),
        ("stage3", 1),
        ("stage3", 2),
    ]
    assert any("stage2 ends early, after 1 of 2 steps: evaluation/p3/sampled/accuracy is" in line for line in said)
    assert sorted(path.stem for path in (workdir / "evaluations").iterdir()) == [
        "after",
        "before",
        "step_000001",
        "step_000002",
        "step_000003",
        "step_000004",
    ]


def test_a_run_whose_last_stage_ends_early_ends_with_the_evaluation_after(small, judged, tmp_path):
    found = small.run(small.fields(tmp_path / "run", UNTIL | {"stages.stage3.until.evaluations": 1})).train()
    assert found["after"].step == 4
    assert sorted(found) == ["after", "before", "step_000001", "step_000002", "step_000003"]


def test_the_best_checkpoints_stay_beside_the_newest(small, early):
    """checkpoint.every is never reached, so what stays is the two best, and the last."""
    run, workdir, said = early
    lows = {result.step: loop.rows(result)[-1].accuracy.low for name, result in run.found.items() if name != "before"}
    expected = sorted(lows, key=lambda step: (lows[step], step))[-2:]
    kept = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert kept == sorted({*expected, 5})
    assert sum("among the best" in line for line in said) == 2


def test_a_run_with_an_early_end_is_resumed_exactly_and_drawn_again(small, early, judged, tmp_path, monkeypatch):
    fields = small.fields(tmp_path / "run", {**UNTIL, "checkpoint.keep_every": 1})
    for last in (3, 4):  # within and just behind the stage that ended early
        train_until(small, fields, monkeypatch, last, trips=0)
    run = small.run(fields)
    run.train()
    same_run(small, tmp_path / "run", early[1])
    assert replay(run, 5, 0, 1).identical
    with pytest.raises(ValueError, match="step: expected 1 to 5"):
        replay(run, 6, 0, 1)


def test_a_stage_says_what_to_expect_and_its_first_record_keeps_its_warnings(small, judged, tmp_path):
    fields = small.fields(tmp_path / "run", {"stages.stage2.learning_rate.value": 1e-3, "guard.suspects_warn": 1e-9})
    small.run(fields).train()
    records = small.numbers(tmp_path / "run")[1:]
    warned = {record["step"]: " ".join(record.get("warnings", ())) for record in records}
    assert [step for step, text in warned.items() if "stage2 has a rate of 1e-03" in text] == [3]
    assert sum("warning: stage2 has a rate of 1e-03" in line for line in small.said) == 2  # before the step and with it
    assert sum("ratio/mean is 1 as expected" in line for line in small.said) == 3
    shown = [
        name
        for record in records
        for name in record
        if name.startswith("suspects/") and record[name] and name != "suspects/cut_off"
    ]
    assert len(shown) == sum(text.count("look like a known way") for text in warned.values()) > 0


@pytest.mark.parametrize("fresh", [False, True])
def test_a_stage_begins_with_fresh_moments_where_it_says_so(small, judged, tmp_path, monkeypatch, fresh):
    """Adam's counter tells: it goes on from stage to stage, or begins anew."""
    counts, real = [], steps.Steps.learn

    def learn(self, state, plan, drawn):
        found = [
            int(leaf)
            for leaf in steps.jax.tree.leaves(state.opt_state)
            if leaf.ndim == 0 and np.issubdtype(leaf.dtype, np.integer)
        ]
        counts.append(max(found))
        return real(self, state, plan, drawn)

    monkeypatch.setattr(steps.Steps, "learn", learn)
    small.run(small.fields(tmp_path / "run", {"stages.stage2.fresh_optimizer": fresh})).train()
    assert counts == ([0, 1, 0, 1, 2, 3] if fresh else [0, 1, 2, 3, 4, 5])
    counts.clear()  # and so does a run that starts from another
    run = small.run(
        small.fields(
            tmp_path / "next",
            {"init_from": str(tmp_path / "run"), "stages.stage1.fresh_optimizer": fresh, "evaluation.samples": 1},
        )
    )
    run.train()
    assert counts == ([0, 1, 2, 3, 4, 5] if fresh else [counts[0] + i for i in range(6)]) and (counts[0] > 0) != fresh
    inherited = " alone" if fresh else " and the moments of its optimizer"
    assert f"starts from {tmp_path / 'run'}@6: its weights{inherited}" in small.said

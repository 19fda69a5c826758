"""What a run does if a step goes wrong, if a signal stops it, and if a stage ends early."""

import os
import signal

import jax
import numpy as np
import pytest
from fixtures.recovery import SPARSE, STEPS, assert_same_run

from jaxrl.reporting.rollouts import read_rollouts, rollout_path
from jaxrl.reporting.run_folder import read_run
from jaxrl.runtime.signals import Ended, Stopped, exit_on_signal
from jaxrl.tasks.prompting import PromptFormat
from jaxrl.training import export, trainer
from jaxrl.training.guard import store_rejected_step
from jaxrl.training.progress import StepPlan
from jaxrl.training.replay import replay
from jaxrl.training.step import Step
from jaxrl.training.workdir import claim_run_folder

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_duplicates(monkeypatch):
    """Do not wait for duplicates of a signal."""
    monkeypatch.setattr("jaxrl.runtime.signals.DUPLICATE_SECONDS", 0)


def test_a_poisoned_step_is_undone_stored_and_reseeded(small, whole, poisoned_run):
    """The run rolls back to checkpoint 2: steps 1 and 2 are those of the undisturbed run, 3 to 6 are others."""
    workdir, messages = poisoned_run
    assert any("rejected step 4: loss/total is nan" in line and "Rolled back to step 2" in line for line in messages)
    mine, theirs = small.numbers(workdir), small.numbers(whole[1])
    assert [record["step"] for record in mine] == list(range(STEPS + 1))
    assert mine[:3] == theirs[:3]
    assert [record["guard/trips"] for record in mine[1:]] == [0, 0, 1, 1, 1, 1]
    assert [record["guard/reseeds"] for record in mine[1:]] == [0, 0, 1, 1, 1, 1]
    assert all(np.isfinite(record["gradient_norm"]) for record in mine[1:])
    texts = [
        [
            response.response
            for group in read_rollouts(rollout_path(folder / "rollouts", 3))
            for response in group.responses
        ]
        for folder in (workdir, whole[1])
    ]
    assert texts[0] != texts[1]
    stored = workdir / "guard" / "trip_1"
    assert np.isnan(np.load(stored / "step_000004.npz")["advantages"]).all()
    assert read_rollouts(stored / "step_000004.jsonl.gz")[0].responses[0].advantage is None


def train_until(small, fields, monkeypatch, last, trips):
    """Train until the metrics of step `last` are logged after so many trips of the guard, then die."""
    real = trainer.RunLog.add_metrics

    def dies(self, record):
        real(self, record)
        if record["step"] == last and record["guard/trips"] == trips:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer.RunLog, "add_metrics", dies)
        with pytest.raises(KeyboardInterrupt):
            small.run(fields).train()


def test_a_run_with_a_trip_is_resumed_and_replayed_exactly(
    small, judged, poisoned, poisoned_run, tmp_path, monkeypatch
):
    """Law 2 across a trip: killed after it, before the next checkpoint and after it. What later steps left is gone."""
    drop_after, left = trainer.RunLog.drop_after, []

    def drop_and_list(self, last_step):
        drop_after(self, last_step)
        left.append(sorted(path.stem for path in (tmp_path / "run" / "evaluations").glob("*")))

    monkeypatch.setattr(trainer.RunLog, "drop_after", drop_and_list)
    fields = small.fields(tmp_path / "run", {**SPARSE, "evaluation.every": 3})
    for last in (3, 5):
        train_until(small, fields, monkeypatch, last, trips=1)
    assert left[:2] == [[], ["before"]]  # at the start, and when the guard rolls back to step 2
    run = small.run(fields)
    run.train()
    assert_same_run(small, tmp_path / "run", poisoned_run[0])
    assert replay(run, 5, 1, 2).identical


@pytest.mark.parametrize(("every", "later", "back"), [(2, 2, 2), (2, 4, 2), (9, 9, 0)])
def test_a_stop_between_the_checkpoint_and_a_trip_changes_nothing(
    small, judged, poisoned, tmp_path, monkeypatch, every, later, back
):
    """A signal saves the state after step 3. The trip at step 4 rolls back to the checkpoint that was due before, also
    if checkpoint.every has changed in the meantime. A kill at that moment leaves no trace."""
    small.run(small.fields(tmp_path / "whole", {**SPARSE, "checkpoint.every": every})).train()
    assert any(f"Rolled back to step {back}" in line for line in small.logged)
    real, fields = Step.collect, small.fields(tmp_path / "run", {**SPARSE, "checkpoint.every": every})

    def disturbed(self, state, reference, plan, timed):
        if plan.reseeds == 1:
            raise KeyboardInterrupt
        if plan.step == 4 and "resuming after step 3" not in small.logged:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, state, reference, plan, timed)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "collect", disturbed)
        with pytest.raises(Stopped):
            small.run(fields).train()
        fields["checkpoint"]["every"] = later
        with pytest.raises(KeyboardInterrupt):
            small.run(fields).train()
    assert "resuming after step 3" in small.logged
    small.run(fields).train()
    assert [line for line in small.logged if "resuming after" in line] == [f"resuming after step {back}"] * (back > 0)
    assert_same_run(small, tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(("every", "refused"), [(0, 4), (3, 3)])
def test_infinite_parameters_are_undone(small, whole, judged, tmp_path, monkeypatch, every, refused):
    """The next logits show them, in a rollout or in the step's own evaluation. Nothing of the step is kept."""
    real = Step.learn
    broken = []

    def learn(self, state, batch, plan):
        state, info = real(self, state, batch, plan)
        if plan.step == 3 and not broken:
            broken.append(plan.step)
            state = state._replace(params=jax.tree.map(lambda x: x * np.float32(np.inf), state.params))
        return state, info

    monkeypatch.setattr(Step, "learn", learn)
    small.run(small.fields(tmp_path / "run", {**SPARSE, "evaluation.every": every})).train()
    assert any(f"rejected step {refused}" in line and "Rolled back to step 2" in line for line in small.logged)
    records = small.numbers(tmp_path / "run")
    assert [record["step"] for record in records] == list(range(STEPS + 1))
    assert {record["guard/trips"] for record in records[3:]} == {1}
    assert all(np.isfinite(leaf).all() for leaf in small.params(tmp_path / "run"))


@pytest.mark.parametrize(("changes", "trips"), [({"guard.remedy": "stop"}, 1), ({"guard.retries": 2}, 3)])
def test_the_guard_ends_the_run_with_its_cause(small, judged, tmp_path, changes, trips):
    """No run can keep this bound: after all retries of the remedy the run ends with complete checkpoints."""
    fields = small.fields(tmp_path / "run", {**changes, "guard.length_max": 1.0})
    with pytest.raises(Ended, match=r"step 1: the mean length .* over guard.length_max = 1: .* run the same command"):
        small.run(fields).train()
    assert len(list((tmp_path / "run" / "guard").iterdir())) == trips
    assert [record["step"] for record in small.numbers(tmp_path / "run")] == [0]
    small.run(small.fields(tmp_path / "run")).train()  # without the bound the same folder is resumed
    assert len(small.numbers(tmp_path / "run")) == STEPS + 1
    assert read_run(tmp_path / "run").trips == []  # the steps of these trips were accepted in the end


def test_a_trip_replaces_the_stored_trip_of_the_same_number(tmp_path):
    """A run that was killed after a trip trips again, perhaps at another step."""
    store_rejected_step(tmp_path / "trip_1", 3, "too long.", {"step": 3}, None, [])
    (tmp_path / "trip_1" / "step_000003.npz").touch()
    store_rejected_step(tmp_path / "trip_1", 4, "too short.", {"step": 4}, None, [])
    assert [path.name for path in (tmp_path / "trip_1").iterdir()] == ["cause.json"]


def test_the_learning_rate_is_lowered_for_the_rest_of_the_run(small, whole, judged, tmp_path, monkeypatch):
    real, seen = trainer.find_cause, []

    def once(spec, record):
        seen.append(record["step"])
        return "too wild." if seen.count(3) == 1 and record["step"] == 3 else real(spec, record)

    monkeypatch.setattr(trainer, "find_cause", once)
    small.run(small.fields(tmp_path / "run", {**SPARSE, "guard.remedy": "learning_rate", "guard.factor": 0.25})).train()
    mine, theirs = (
        [record["learning_rate"] for record in small.numbers(folder)[1:]] for folder in (tmp_path / "run", whole[1])
    )
    assert mine == [*theirs[:2], *(0.25 * rate for rate in theirs[2:])]


def test_equal_rewards_are_a_warning_and_do_no_harm(small, tmp_path, monkeypatch):
    """All advantages are zero."""
    real = PromptFormat.judge
    monkeypatch.setattr(PromptFormat, "judge", lambda *args: real(*args)._replace(verdict="bad_format", reward=-3.0))
    small.run(small.fields(tmp_path / "run")).train()
    records = small.numbers(tmp_path / "run")[1:]
    assert all("got the same reward" in " ".join(record["warnings"]) for record in records)
    assert all(np.isfinite(leaf).all() for leaf in small.params(tmp_path / "run"))
    assert [record["guard/trips"] for record in records] == [0] * STEPS


def test_a_signal_during_the_export_ends_it_and_the_same_command_writes_it(small, whole, judged, tmp_path, monkeypatch):
    """The state is saved by then. The folder is still locked: no other process exports it."""
    run, workdir = whole
    exported = workdir / "export" / "model.safetensors"
    before = exported.read_bytes()

    def interrupted(*_, **__):
        with pytest.raises(OSError, match="in use"), claim_run_folder(workdir, run.config):
            pass
        signal.raise_signal(signal.SIGTERM)

    def exit_(status):
        raise SystemExit(status)

    exported.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(export, "save_params", interrupted)
        patch.setattr(os, "_exit", exit_)
        with pytest.raises(SystemExit, match="75"), exit_on_signal("jaxrl.train"):
            small.run(run.config).train()
    assert not exported.exists()
    small.run(run.config).train()
    assert exported.read_bytes() == before


@pytest.mark.parametrize("method", ["collect", "learn"])
def test_a_signal_saves_the_last_finished_step(small, whole, judged, tmp_path, monkeypatch, method):
    """During a rollout the step is abandoned; during the update it is finished. No checkpoint is due after step 3."""
    real = getattr(Step, method)

    def interrupted(self, state, *args):
        found = real(self, state, *args)
        plan = next(arg for arg in args if isinstance(arg, StepPlan))
        if plan.step == (4 if method == "collect" else 3):
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    fields = small.fields(tmp_path / "run", SPARSE)
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(Step, method, interrupted)
        with pytest.raises(Stopped, match="after step 3: stopped by SIGTERM; run the same command again"):
            small.run(fields).train()
    assert signal.getsignal(signal.SIGTERM) is before
    small.run(fields).train()
    assert "resuming after step 3" in small.logged
    assert_same_run(small, tmp_path / "run", whole[1])


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
    return run, workdir, list(small.logged)


def test_the_next_stage_follows_a_stage_that_ends_early(small, early):
    _, workdir, lines = early
    records = small.numbers(workdir)[1:]
    assert [(record["stage"], record["stage_step"]) for record in records] == [
        ("stage1", 1),
        ("stage1", 2),
        ("stage2", 1),
        ("stage3", 1),
        ("stage3", 2),
    ]
    assert any("stage2 ends early, after 1 of 2 steps: evaluation/p3/sampled/accuracy is" in line for line in lines)
    assert sorted(path.stem for path in (workdir / "evaluations").iterdir()) == [
        "after",
        "before",
        "step_000001",
        "step_000002",
        "step_000003",
        "step_000004",
    ]


def test_a_run_whose_last_stage_ends_early_has_the_final_evaluation(small, judged, tmp_path):
    found = small.run(small.fields(tmp_path / "run", UNTIL | {"stages.stage3.until.evaluations": 1})).train()
    assert found["after"].step == 4
    assert sorted(found) == ["after", "before", "step_000001", "step_000002", "step_000003"]


def test_the_best_checkpoints_are_kept_besides_the_newest(small, early):
    """checkpoint.every is never reached, so only the two best and the last are kept."""
    run, workdir, lines = early
    lows = {
        result.step: trainer.rows(result)[-1].accuracy.low
        for name, result in run.evaluations.items()
        if name != "before"
    }
    expected = sorted(lows, key=lambda step: (lows[step], step))[-2:]
    kept = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert kept == sorted({*expected, 5})
    assert sum("among the best" in line for line in lines) == 2


def test_a_run_with_an_early_end_is_resumed_and_replayed_exactly(small, early, judged, tmp_path, monkeypatch):
    fields = small.fields(tmp_path / "run", {**UNTIL, "checkpoint.keep_every": 1})
    for last in (3, 4):  # in the stage that ends early, and in the one after it
        train_until(small, fields, monkeypatch, last, trips=0)
    run = small.run(fields)
    run.train()
    assert_same_run(small, tmp_path / "run", early[1])
    assert replay(run, 5, 0, 1).identical
    with pytest.raises(ValueError, match="step: expected 1 to 5"):
        replay(run, 6, 0, 1)


def test_warnings_about_a_stage_are_logged_and_stored_in_its_first_record(small, judged, tmp_path):
    fields = small.fields(tmp_path / "run", {"stages.stage2.learning_rate.value": 1e-3, "guard.suspects_warn": 1e-9})
    small.run(fields).train()
    records = small.numbers(tmp_path / "run")[1:]
    warned = {record["step"]: " ".join(record.get("warnings", ())) for record in records}
    assert [step for step, text in warned.items() if "stage2 has a learning rate of 1e-03" in text] == [3]
    assert (
        sum("warning: stage2 has a learning rate of 1e-03" in line for line in small.logged) == 2
    )  # before the step and with it
    assert sum("ratio/mean is 1 as expected" in line for line in small.logged) == 3
    shown = [
        name
        for record in records
        for name in record
        if name.startswith("suspects/") and record[name] and name != "suspects/truncated"
    ]
    assert len(shown) == sum(text.count("resemble a known way") for text in warned.values()) > 0


@pytest.mark.parametrize("fresh", [False, True])
def test_a_stage_starts_with_fresh_moments_if_configured(small, judged, tmp_path, monkeypatch, fresh):
    """Adam's step counter continues from stage to stage, or is reset."""
    counts, real = [], Step.learn

    def learn(self, state, batch, plan):
        found = [
            int(leaf)
            for leaf in jax.tree.leaves(state.opt_state)
            if leaf.ndim == 0 and np.issubdtype(leaf.dtype, np.integer)
        ]
        counts.append(max(found))
        return real(self, state, batch, plan)

    monkeypatch.setattr(Step, "learn", learn)
    small.run(small.fields(tmp_path / "run", {"stages.stage2.fresh_optimizer": fresh})).train()
    assert counts == ([0, 1, 0, 1, 2, 3] if fresh else [0, 1, 2, 3, 4, 5])
    counts.clear()  # the same for a run that starts from another one
    run = small.run(
        small.fields(
            tmp_path / "next",
            {"init_from": str(tmp_path / "run"), "stages.stage1.fresh_optimizer": fresh, "evaluation.samples": 1},
        )
    )
    run.train()
    assert counts == ([0, 1, 2, 3, 4, 5] if fresh else [counts[0] + i for i in range(6)]) and (counts[0] > 0) != fresh
    inherited = " only" if fresh else " and the optimizer's moments"
    assert f"starting from {tmp_path / 'run'}@6: the weights{inherited}" in small.logged

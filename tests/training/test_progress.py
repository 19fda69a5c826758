"""Which step comes next is a function of stored numbers: stages that end early, remedies, and new seeds."""

import importlib

import pytest

from jaxrl.command_line import plain
from jaxrl.training.progress import Progress, advance, plan_step, read_progress, reseed, roll_back, stored_plan
from jaxrl.training.run_spec import run_spec

pytestmark = pytest.mark.check


def spec_of(**changes):
    config = importlib.import_module("configs.three_stage").get_config("tiny")
    config.update_from_flattened_dict(changes)
    return run_spec(plain(config))


UNTIL = {"evaluation.every": 1, "stages.stage1.until.accuracy": 0.5, "stages.stage1.until.evaluations": 2}


def walk(stages, accuracies):
    """(stage, step in the stage) of each step, with these accuracies measured after the first steps."""
    progress, seen = Progress(), []
    while progress.stage < len(stages):
        plan = plan_step(stages, progress, 0)
        seen.append((plan.stage.name, plan.stage_step))
        found = {"evaluation/p3/sampled/accuracy": accuracies[plan.step - 1]} if plan.step <= len(accuracies) else {}
        progress = advance(stages, progress, found)
    return seen


def test_a_stage_ends_after_so_many_good_evaluations_in_a_row():
    stages = spec_of(**UNTIL).stages
    seen = walk(stages, [0.6, 0.4, 0.5, 0.7, 0.9, 0.9, 0.9])
    assert [stage for stage, _ in seen].count("stage1") == 4
    assert seen[4] == ("stage2", 0)
    assert len(seen) == 4 + stages[1].steps + stages[2].steps


def test_without_an_accuracy_to_reach_every_stage_has_all_its_steps():
    stages = spec_of().stages
    seen = walk(stages, [1.0] * 40)
    assert seen == [(stage.name, step) for stage in stages for step in range(stage.steps)]


def test_stages_follow_each_other_by_their_numbers():
    """Stage 10 comes after stage 2, although its name comes before as text."""
    config = importlib.import_module("configs.three_stage").get_config("tiny")
    for old, new in (("stage1", "stage2"), ("stage2", "stage10"), ("stage3", "stage11")):
        config[new] = config.stages[old]
    config.stages = {name: config[name] for name in ("stage11", "stage10", "stage2")}
    assert [stage.name for stage in run_spec(plain(config)).stages] == ["stage2", "stage10", "stage11"]


def test_a_step_of_the_metrics_is_the_step_that_was_planned():
    stages = spec_of().stages
    progress = Progress(step=20, stage=2, stage_step=3, reseeds=2, learning_rate_scale=0.5, temperature_scale=0.8)
    plan = plan_step(stages, progress, 0)
    record = {
        "step": plan.step,
        "stage": plan.stage.name,
        "stage_step": plan.stage_step + 1,
        "guard/reseeds": plan.reseeds,
        "guard/learning_rate_scale": plan.learning_rate_scale,
        "learning_rate": plan.learning_rate,
        "temperature": plan.temperature,
    }
    assert stored_plan(stages, record, 0) == plan
    plain_plan = plan_step(stages, progress._replace(learning_rate_scale=1.0, temperature_scale=1.0), 0)
    assert plan.learning_rate == 0.5 * plain_plan.learning_rate
    assert plan.temperature == 0.8 * plain_plan.temperature


def test_truncation_may_change_over_a_stage_and_is_planned_again_from_the_metrics():
    """Linear from the first step on, like the temperature; top_k is rounded. Without an end value they are constant."""
    fields = {"top_k": 100, "top_k_end": 50, "top_p": 1.0, "top_p_end": 0.9, "min_p": 0.0}
    stages = spec_of(**{f"stages.stage1.sampling.{name}": value for name, value in fields.items()}).stages
    first, later = (plan_step(stages, Progress(step=step, stage_step=step), 0) for step in (0, 3))
    assert stages[0].truncates and not stages[1].truncates
    assert (first.top_k, first.top_p, first.min_p) == (100, 1.0, 0.0)
    assert (later.top_k, later.top_p, later.min_p) == (85, pytest.approx(0.97), 0.0)
    record = {
        "step": later.step,
        "stage": "stage1",
        "stage_step": 4,
        "guard/reseeds": 0,
        "guard/learning_rate_scale": 1.0,
        "learning_rate": later.learning_rate,
        "temperature": later.temperature,
    }
    assert stored_plan(stages, record, 0) == later


@pytest.mark.parametrize(
    ("remedy", "changed"),
    [
        ("reseed", {"reseeds": 2}),
        ("learning_rate", {"learning_rate_scale": 0.125}),
        ("temperature", {"temperature_scale": 0.5}),
    ],
)
def test_remedies_accumulate_and_the_run_continues_from_the_checkpoint(remedy, changed):
    saved, now = (
        Progress(step=10, stage_step=10),
        Progress(step=14, stage_step=14, trips=1, reseeds=1, learning_rate_scale=0.25),
    )
    guard = spec_of(**{"guard.remedy": remedy, "guard.factor": 0.5}).guard
    assert roll_back(guard, saved, now) == now._replace(step=10, stage_step=10, trips=2, **changed)


def test_a_lower_learning_rate_does_not_repeat_the_rejected_step_from_the_same_weights():
    """Directly after the checkpoint, weights, prompts and tokens would be those of the rejected step."""
    saved, guard = (
        Progress(step=10, stage_step=10),
        spec_of(**{"guard.remedy": "learning_rate", "guard.factor": 0.5}).guard,
    )
    first = roll_back(guard, saved, saved)
    assert (first.learning_rate_scale, first.reseeds) == (0.5, 1)
    again = roll_back(guard, saved, first)
    assert (again.learning_rate_scale, again.reseeds) == (0.25, 2)
    assert roll_back(guard, saved, again._replace(step=11, stage_step=11)).reseeds == 2


def test_every_reseed_has_another_seed():
    seeds = [reseed(seed, count) for seed in (0, 1) for count in range(4)]
    assert len(set(seeds)) == 8
    assert reseed(7, 0) == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**UNTIL, "evaluation.every": 0}, "evaluation.every and evaluation.samples above 0"),
        ({**UNTIL, "stages.stage1.until.kind": "p9"}, r"stage1.until.kind: expected a kind of evaluation.pool .*'p9'"),
        ({**UNTIL, "stages.stage1.until.evaluations": 0}, "1 or more evaluations"),
        ({"checkpoint.best": 2}, "checkpoint.best: expected evaluation.every above 0"),
        ({"checkpoint.patience": -1}, "checkpoint.patience: expected 0 or more"),
    ],
)
def test_early_ends_and_best_checkpoints_without_evaluations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        spec_of(**changes)


def test_a_note_of_another_version_is_refused():
    note = Progress(step=3, reseeds=1)._asdict()
    assert read_progress(note) == Progress(step=3, reseeds=1)
    old = {("draw" if name == "reseeds" else name): value for name, value in note.items()}
    for wrong in (old, note | {"place": 1}, {"step": 3}, {}):
        with pytest.raises(ValueError, match=r"expected a note with step, .*another version wrote it"):
            read_progress(wrong)

"""Supervised steps inside a run: the loss is the cross entropy of the demonstrations; nothing else changes."""

import dataclasses
import importlib
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrl.checkpointing.restore import restore_params
from jaxrl.command_line import plain
from jaxrl.reporting.rollouts import read_rollouts, rollout_path
from jaxrl.tasks.prompting import PromptFormat
from jaxrl.training import trainer
from jaxrl.training.initial_state import first_state
from jaxrl.training.progress import Progress, plan_step
from jaxrl.training.replay import replay
from jaxrl.training.run_spec import run_spec
from models.tokenizer import eos_ids, load_tokenizer

TINY = Path(__file__).parents[2] / "models" / "tiny"
STAGE = {
    "samples": 1,
    "prompts": 8,
    "steps": 2,
    "pool.p3": 8,
    "sampling.max_new_tokens": 420,
    "sampling.temperature": 1.0,
    "sampling.temperature_end": 1.0,
    "learning_rate.value": 2.5e-4,
}
SFT = {
    "algorithm.recipe": "sft",
    "model": str(TINY),
    "layout.micro_tokens": 4096,
    "layout.ratio": 9.0,
    "checkpoint.keep": 9,
    **{f"stages.stage{stage}.{field}": value for stage in (1, 2, 3) for field, value in STAGE.items()},
}


@pytest.fixture(scope="module")
def supervised(small, tmp_path_factory):
    """Three supervised stages of the embedded model."""
    workdir = tmp_path_factory.mktemp("supervised") / "run"
    run = small.run(small.fields(workdir, SFT))
    run.train()
    return run, workdir, list(small.logged)


def test_the_loss_is_the_cross_entropy_of_the_demonstrations_and_falls(small, supervised):
    run, workdir, _ = supervised
    records = small.numbers(workdir)[1:]
    plan = plan_step(run.spec.stages, Progress(), run.spec.seed)
    problems = run.problem_set.problems("stage1", run.problem_set.select(plan))
    prompts, demonstrations = (
        list(map(write, problems))
        for write in (run.problem_set.prompt_format.encode, run.problem_set.prompt_format.demonstration)
    )
    rows = [prompt + demonstration for prompt, demonstration in zip(prompts, demonstrations, strict=True)]
    lengths = np.array(list(map(len, rows)), np.int32)
    tokens = np.array([row + [0] * (run.components.longest - len(row)) for row in rows], np.int32)
    logp = run.components.logp(first_state(run.components, run.spec, TINY).params, tokens, lengths, 1.0)
    log_likelihood = [row[len(prompt) :].sum() for row, prompt in zip(logp, prompts, strict=True)]
    assert records[0]["loss/total"] == pytest.approx(-sum(log_likelihood) / sum(map(len, demonstrations)), rel=1e-5)
    assert all(record["loss/total"] < 0.8 * records[0]["loss/total"] for record in records[2:])


def test_demonstrations_are_stored_and_scored_without_metrics_of_a_sampler(small, supervised):
    run, workdir, lines = supervised
    records = small.numbers(workdir)
    assert {record["share/correct"] for record in records[1:]} == {1.0}
    missing = {"mismatch/mean", "tokens/slot_occupancy", "speed/rollout_tokens_per_second", "groups/no_variance"}
    assert not any((missing | {"warnings"}) & record.keys() for record in records)
    groups = read_rollouts(rollout_path(workdir / "rollouts", 1))
    assert {
        (response.verdict, response.advantage, response.finished) for group in groups for response in group.responses
    } == {("correct", 1.0, True)}
    assert groups[0].responses[0].response.startswith("<think>Try ") and not any("warning" in line for line in lines)
    assert replay(run, 2, 1, 0).identical


def test_a_killed_supervised_run_resumes_exactly(small, supervised, tmp_path, monkeypatch):
    real, fields = trainer.RunLog.add_metrics, small.fields(tmp_path / "run", SFT)

    def dies(self, record):
        real(self, record)
        if record["step"] == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer.RunLog, "add_metrics", dies)
        with pytest.raises(KeyboardInterrupt):
            small.run(fields).train()
    run = small.run(fields)
    run.train()
    assert small.numbers(tmp_path / "run") == small.numbers(supervised[1])
    mine, theirs = (
        jax.tree.leaves(restore_params(folder, run.components.config)[0])
        for folder in (tmp_path / "run", supervised[1])
    )
    for first, second in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages.stage2.samples": 2}, "stage2: expected samples=1 and sampling.temperature=1 .* got 2 and 1.0"),
        ({"stages.stage3.sampling.temperature": 1.2}, "stage3: expected samples=1 .* got 1 and 1.2 to 1.0"),
        (
            {"stages.stage3.sampling.max_new_tokens": 90},
            r"stage3: expected demonstrations of at most sampling\.max_new_tokens=90 tokens, got one of \d+",
        ),
    ],
)
def test_invalid_supervised_stages_are_errors(small, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        small.run(small.fields(tmp_path / "run", SFT | changes))
    assert not (tmp_path / "run").exists()


def test_a_task_without_a_solver_is_an_error():
    fields = plain(importlib.import_module("configs.gsm8k").get_config("tiny"))
    fields["algorithm"]["recipe"], fields["samples"] = "sft", 1
    with pytest.raises(ValueError, match="learns from demonstrations of the task's solver, and gsm8k has no solver"):
        run_spec(fields)


@pytest.mark.parametrize("opens_think", [False, True])
def test_demonstrations_are_correct_whether_or_not_the_prompt_opens_the_thinking(opens_think):
    """A demonstration continues the prompt and ends with the EOS token."""
    spec = run_spec(plain(importlib.import_module("configs.stage1").get_config("tiny")))
    tokenizer = load_tokenizer(TINY)
    prompt_format = PromptFormat(
        spec.task,
        dataclasses.replace(spec.prompt, opens_think=opens_think),
        spec.reward.rule,
        spec.reward.values,
        tokenizer,
        eos_ids(TINY, tokenizer),
    )
    for problem in spec.task.select("train", (("p2", 4), ("p3", 4), ("p5", 4)), seed=5):
        demonstration = prompt_format.demonstration(problem)
        assert demonstration[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id not in demonstration[:-1]
        text = prompt_format.decode(demonstration)
        assert text.startswith("Try " if opens_think else "<think>Try ")
        assert prompt_format.judge(problem, text, False).verdict == "correct"

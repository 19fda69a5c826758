"""Warnings about metrics outside their healthy range, and none for a good step."""

import dataclasses
import importlib
import re

import numpy as np
import pytest

from jaxrl.command_line import plain
from jaxrl.reporting.metrics import check_record
from jaxrl.rewards import SUSPECTS, Verdict
from jaxrl.sampling import Completions
from jaxrl.tasks.problem import Problem
from jaxrl.tasks.task import Reasoning
from jaxrl.training.rollout import Rollout
from jaxrl.training.run_spec import run_spec
from jaxrl.training.step_metrics import rollout_metrics, soundness_metrics, stage_warnings, suspect_warnings, warnings

FINE = {
    "groups/no_variance": 0.4,
    "share/truncated": 0.1,
    "share/bad_format": 0.2,
    "mismatch/mean": 1e-3,
    **{f"suspects/{name}": 0.25 for name in SUSPECTS},
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("groups/no_variance", 1.0, "all samples of every problem got the same reward"),
        ("share/truncated", 1.0, "every response was truncated.* end token"),
        ("share/truncated", 0.6, "60% of the responses were truncated"),
        ("share/bad_format", 1.0, "every response had a format error"),
        ("mismatch/mean", 0.2, "sampler and learner differ by 0.20 nats per token"),
    ],
)
def test_each_fault_has_one_warning(name, value, message):
    assert warnings(FINE) == []
    found = warnings(FINE | {name: value})
    assert len(found) == 1
    assert re.search(message, found[0])


def test_suspects_warn_above_the_configured_share():
    many = FINE | {"suspects/answer_copied": 0.3}
    assert suspect_warnings(FINE, 0.25) == suspect_warnings(many, 0.3) == suspect_warnings(many, 0.0) == []
    (found,) = suspect_warnings(many, 0.25)
    assert re.match(r"30% of the responses resemble .* \(answer_copied\)", found)


@pytest.mark.parametrize(
    ("rate", "parameters", "warned"),
    [(6e-5, 870_000, False), (3e-4, 870_000, True), (4e-7, 7_620_000_000, False), (1e-6, 7_620_000_000, True)],
)
def test_a_learning_rate_that_is_known_to_collapse_warns(rate, parameters, warned):
    stage = run_spec(plain(importlib.import_module("configs.stage1").get_config("tiny"))).stages[0]
    stage = dataclasses.replace(stage, learning_rate=dataclasses.replace(stage.learning_rate, value=rate))
    found = stage_warnings(stage, parameters, adapters=False)
    assert len(found) == warned
    assert stage_warnings(stage, parameters, adapters=True) == []
    assert not found or f"stage1 has a learning rate of {rate:.0e}" in found[0]


def rollout_of(rows, group):
    """Of (verdict, reward, length, finished, suspects, response), `group` to a problem."""
    verdicts = [
        Verdict(verdict, (), reward / 2, reward / 2, reward, "r-1", suspects)
        for verdict, reward, _, _, suspects, _ in rows
    ]
    lengths, finished = np.array([row[2] for row in rows]), np.array([row[3] for row in rows])
    problems = [Problem(str(i), "p3", "", "", "", False, (), None) for i in range(len(rows) // group)]
    zeros = np.zeros((len(rows), 1))
    completions = Completions(zeros, lengths, finished, zeros, zeros, 0.75)
    responses = [row[5] for row in rows]
    return Rollout(np.arange(len(problems)), problems, [[1]] * len(problems), completions, responses, verdicts)


def test_rollout_metrics_by_hand():
    metrics = rollout_metrics(rollout_of([
        ("correct", 3.0, 10, True, (), "Wait, Bob lies."), ("correct", 3.0, 30, True, (), "Bob lies."),
        ("wrong_answer", -0.5, 40, True, ("tiny_thinking",), "Wait, Cal lies. Wait."),
        ("bad_format", -3.0, 100, False, ("truncated",), "Cal lies."),
    ], group=2))  # fmt: skip
    check_record({"step": 1} | metrics)
    expected = {
        "reward/mean": 0.625, "reward/format": 0.3125, "share/correct": 0.5, "share/wrong_answer": 0.25,
        "share/unparseable": 0.0, "share/bad_format": 0.25, "share/truncated": 0.25, "length/mean": 45.0,
        "length/min": 10, "length/max": 100, "length/p50": 35.0, "length/correct": 20.0, "length/wrong": 70.0,
        "length/wrong_answer": 40.0, "length/bad_format": 100.0, "groups/no_variance": 0.5, "tokens/rollout": 180,
        "tokens/slot_occupancy": 0.75, "suspects/tiny_thinking": 0.25, "behaviour/hesitation": 0.5,
        "behaviour/hesitation/count": 0.75, "behaviour/hesitation/with": 0.5, "behaviour/hesitation/without": 0.5,
    }  # fmt: skip
    assert {name: metrics[name] for name in expected} == expected
    assert "length/unparseable" not in metrics
    assert metrics["behaviour/hesitation/with_low"] == pytest.approx(0.0945, abs=1e-4)  # one of two, one per prompt
    assert not any("sound" in name or "reasoning" in name for name in metrics)  # this task verifies nothing


SOUND = Reasoning(True, "", (0, 0))
WRONG_ROLE, NO_CASE = Reasoning(False, "check: wrong role", (3, 9)), Reasoning(False, "no case tried", (0, 4))


def test_sound_is_correct_by_sound_reasoning():
    """A correct response with a wrong step is not sound, and neither is a sound one that the rule rejects."""
    correct = np.array([True, True, False, False])
    metrics = soundness_metrics([SOUND, WRONG_ROLE, WRONG_ROLE, SOUND], correct)
    assert metrics == {"share/sound": 0.25, "reasoning_errors/check_wrong_role": 0.5}
    check_record({"step": 1} | metrics)
    assert soundness_metrics([NO_CASE] * 4, correct) == {"share/sound": 0.0, "reasoning_errors/no_case_tried": 1.0}
    assert soundness_metrics([SOUND, None, SOUND, SOUND], correct) == soundness_metrics([], correct) == {}

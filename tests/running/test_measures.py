"""What is wrong with a step is said in words, and nothing is said of a good one."""

import dataclasses
import importlib
import re

import pytest

from jaxrl.flags import plain
from jaxrl.rewards import SUSPECTS
from jaxrl.running.measures import stage_warnings, warnings
from jaxrl.running.settings import run_spec

FINE = {"groups/no_variance": 0.4, "share/cut_off": 0.1, "share/bad_format": 0.2, "mismatch/mean": 1e-3,
        **{f"suspects/{name}": 0.25 for name in SUSPECTS}}


@pytest.mark.parametrize(("name", "value", "said"), [
    ("groups/no_variance", 1.0, "every group got one and the same reward"),
    ("share/cut_off", 1.0, "no response ended by itself: all were cut off.* end token"),
    ("share/cut_off", 0.6, "60% of the responses were cut off"),
    ("share/bad_format", 1.0, "every response was badly formed"),
    ("suspects/answer_copied", 0.3, r"30% of the responses look like .* \(answer_copied\)"),
    ("mismatch/mean", 0.2, "sampler and learner disagree by 0.20 nats"),
])
def test_each_fault_is_one_sentence_of_its_own(name, value, said):
    assert warnings(FINE) == []
    found = warnings(FINE | {name: value})
    assert len(found) == 1
    assert re.search(said, found[0])


@pytest.mark.parametrize(("rate", "parameters", "warned"), [
    (6e-5, 870_000, False), (3e-4, 870_000, True), (4e-7, 7_620_000_000, False), (1e-6, 7_620_000_000, True)])
def test_a_rate_that_is_known_to_collapse_is_named_before_the_stage(rate, parameters, warned):
    stage = run_spec(plain(importlib.import_module("configs.stage1").get_config("tiny"))).stages[0]
    stage = dataclasses.replace(stage, learning_rate=dataclasses.replace(stage.learning_rate, value=rate))
    found = stage_warnings(stage, parameters)
    assert len(found) == warned
    assert not found or f"stage1 has a rate of {rate:.0e}" in found[0]

"""A run folder belongs to one config and one process; what may change between two starts is said and kept."""

import importlib
import json

import pytest

from jaxrl.flags import plain
from jaxrl.running.training_data import training_problems
from jaxrl.running.workdir import check_workdir


def single_fields(**changes):
    config = importlib.import_module("configs.stage1").get_config("tiny")
    config.update_from_flattened_dict(changes)
    return plain(config)


def stored(folder, fields):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    return folder


def test_a_run_of_one_stage_keeps_its_name(tmp_path):
    """It is the stage's name too, under which metrics.jsonl has its steps."""
    folder = stored(tmp_path / "run", single_fields())
    with pytest.raises(ValueError, match=r"name \(there 'stage1', now 'x'\)"):
        check_workdir(folder, single_fields(name="x"))


def test_what_a_run_of_one_stage_was_trained_on(tmp_path):
    problems = list(training_problems(single_fields(**{"pool.p3": 5})))
    assert [problem.kind for problem in problems] == ["p3"] * 5


def test_a_folder_in_which_a_run_was_killed_at_its_very_first_write_is_taken(tmp_path):
    (tmp_path / "config.json.partial").write_text('{"na', encoding="utf-8")
    check_workdir(tmp_path, single_fields())
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="is not empty and is no run folder"):
        check_workdir(tmp_path, single_fields())

"""The number of programs of the embedded model grows with the logarithm of the lengths, and stays small."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.compile import Costs, count_shapes
from configs import three_stage
from jaxrl.command_line import plain
from jaxrl.training.run_spec import run_spec
from models.config import Qwen2Config

pytestmark = pytest.mark.check


def test_twice_the_length_needs_few_more_programs():
    spec = run_spec(plain(three_stage.get_config("tiny")))
    config = Qwen2Config.from_hugging_face(json.loads(Path("models/tiny/config.json").read_text(encoding="utf-8")))
    counts = np.array([count_shapes(spec, config, longest) for longest in (256, 512, 1024)])
    assert (np.diff(counts, axis=0) <= [3, 2, 2]).all() and (counts[-1] <= [9, 5, 8]).all()


def test_costs_count_a_nested_stage_once_and_programs_by_kind():
    costs, stage = Costs(), "/jax/core/compile/"
    costs.begin(stage + "jaxpr_trace_duration")
    costs.begin(stage + "jaxpr_trace_duration")
    costs.end(stage + "jaxpr_trace_duration", fun_name="inner")
    costs.end(stage + "jaxpr_trace_duration", fun_name="accumulate")
    costs.begin(stage + "backend_compile_duration")
    costs.end(stage + "backend_compile_duration", fun_name="jit(decode)")
    assert set(costs.seconds) == {"update", "sampler, decode"}
    assert costs.programs == {"other": 0, "update": 0, "sampler, decode": 1} and "sum" in costs.table()

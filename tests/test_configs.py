"""Every shipped config loads, becomes a specification, and its model's shapes fit its mesh."""

import importlib

import jax
import pytest

from jaxrl.flags import plain
from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.learning.optimizer import make_optimizer
from jaxrl.learning.state import abstract_state
from jaxrl.running.settings import run_spec
from jaxrl.running.tasks import FileTask, GymTask
from jaxrl.sft import supervised_spec
from models.config import PRESETS
from models.folder import read_config
from models.qwen2 import Qwen2

STAGES = ("stage1", "stage2", "stage3")
SIZES = ("", "tiny", "1.5b", "7b")


def load(name: str, size: str):
    return importlib.import_module(f"configs.{name}").get_config(size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", (*STAGES, "three_stage"))
def test_shipped_configs_load_and_their_shapes_fit(name, size):
    spec = run_spec(plain(load(name, size)))
    config = read_config("models/tiny") if size == "tiny" else PRESETS[size or "7b"]
    mesh = make_mesh(MeshSpec(data=1, fsdp=-1) if size != "tiny" else spec.mesh)
    model = Qwen2(config, dtype=spec.dtype, remat=spec.remat, attention=spec.attention, unroll=spec.unroll)
    state = abstract_state(model, make_optimizer(spec.optimizer), mesh)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    # Published sizes: Qwen2.5-7B has 7.62, 1.5B has 1.54 billion parameters; ours 0.87 million.
    assert count == pytest.approx({"": 7.62e9, "7b": 7.62e9, "1.5b": 1.54e9, "tiny": 0.8705e6}[size], rel=0.01)


def test_three_stage_is_the_articles_recipe():
    one, two, three = run_spec(plain(load("three_stage", ""))).stages
    assert [stage.samples for stage in (one, two, three)] == [32, 64, 16]
    assert {stage.prompts for stage in (one, two, three)} == {8}
    assert (one.pool[0][0], two.pool[0][0]) == ("p3", "p5")
    assert two.temperature.value == 1.2
    assert (three.temperature.value, three.temperature.end) == (1.2, 0.9)
    assert three.learning_rate.drops[-1][1] == 2e-7
    assert sum(stage.steps for stage in (one, two, three)) == 400


def test_a_stage_alone_is_the_stage_of_the_whole():
    for size in ("", "tiny"):
        whole = {stage.name: stage for stage in run_spec(plain(load("three_stage", size))).stages}
        for name in STAGES:
            assert run_spec(plain(load(name, size))).stages == (whole[name],)


@pytest.mark.parametrize(("name", "task"), [("gsm8k", FileTask), ("gym", GymTask)])
def test_other_tasks_load(name, task):
    spec = run_spec(plain(load(name, "1.5b")))
    assert isinstance(spec.task, task)
    assert {kind for kind, _ in spec.evaluation.pool} == {kind for kind, _ in spec.stages[0].pool}


def test_tiny_base_loads():
    spec = supervised_spec(importlib.import_module("configs.tiny_base").get_config())
    assert [phase.name for phase in spec.phases] == ["skill", "habit"]


@pytest.mark.parametrize(("field", "value", "said"), [
    (("reward", "rule"), "strict", "reward.rule"), (("dtype",), "float16", "dtype"),
    (("algorithm", "recipe"), "grp", "grp"), (("task", "splits"), {"train": 1.0}, "task.splits"),
    (("samples",), 1, "samples"), (("pool",), {"p3": -5}, "pool"),
    (("task", "name"), "chess", "task.name"), (("prompts",), 1000, "pool"),
    (("sampling", "temperature"), 0.0, "temperature"), (("rollouts", "every"), 0, "rollouts.every"),
    (("reward", "rule"), "gsm8k-1", "can judge the task"),
])
def test_wrong_values_are_refused_by_name(field, value, said):
    config = plain(load("stage1", "tiny"))
    place = config
    for key in field[:-1]:
        place = place[key]
    place[field[-1]] = value
    with pytest.raises(ValueError, match=said):
        run_spec(config)

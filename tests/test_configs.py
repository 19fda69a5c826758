"""Every shipped config loads, becomes a specification, and its model's shapes fit its mesh."""

import dataclasses
import importlib
from pathlib import Path

import jax
import pytest
from rich.console import Console

from jaxrl.algorithms.recipes import RECIPES
from jaxrl.base_model.spec import supervised_spec
from jaxrl.command_line import override, override_arguments, plain
from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.learning.optimizer import make_optimizer
from jaxrl.learning.state import abstract_state
from jaxrl.reporting.terminal import Terminal
from jaxrl.sweep import plan_sweep
from jaxrl.tasks.gsm8k import FileTask
from jaxrl.tasks.knights_and_knaves import PuzzleTask
from jaxrl.tasks.puzzle_files import PuzzleFileTask
from jaxrl.tasks.reasoning_gym import GymTask
from jaxrl.training.run_spec import run_spec
from jaxrl.training.trainer import Trainer
from models.config import PRESETS
from models.folder import read_config
from models.qwen2 import Qwen2

STAGES = ("stage1", "stage2", "stage3")
SIZES = ("", "tiny", "1.5b", "7b")
ABLATIONS = sorted(path.stem for path in Path("configs/ablations").glob("*.py") if path.name != "__init__.py")


def load(name: str, size: str):
    return importlib.import_module(f"configs.{name}").get_config(size)


def changed(config, fields):
    """The fields of a config after overrides."""
    return plain(override(config, override_arguments(fields)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", (*STAGES, "three_stage"))
def test_shipped_configs_load_and_their_shapes_fit(name, size):
    spec = run_spec(plain(load(name, size)))
    config = read_config("models/tiny") if size == "tiny" else PRESETS[size or "7b"]
    mesh = make_mesh(MeshSpec(data=1, fsdp=-1) if size != "tiny" else spec.mesh)
    model = Qwen2(
        config, dtype=spec.model.dtype, remat=spec.model.remat, attention=spec.model.attention, unroll=spec.model.unroll
    )
    state = abstract_state(model, make_optimizer(spec.optimizer), mesh)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    # Published sizes: Qwen2.5-7B has 7.62, 1.5B has 1.54 billion parameters; ours 0.87 million.
    assert count == pytest.approx({"": 7.62e9, "7b": 7.62e9, "1.5b": 1.54e9, "tiny": 0.8705e6}[size], rel=0.01)


def test_three_stage_is_the_published_recipe():
    one, two, three = run_spec(plain(load("three_stage", ""))).stages
    assert [stage.samples for stage in (one, two, three)] == [32, 64, 16]
    assert {stage.prompts for stage in (one, two, three)} == {8}
    assert (one.pool[0][0], two.pool[0][0]) == ("p3", "p5")
    assert two.temperature.value == 1.2
    assert (three.temperature.value, three.temperature.end) == (1.2, 0.9)
    assert three.learning_rate.drops[-1][1] == 2e-7
    assert sum(stage.steps for stage in (one, two, three)) == 400


@pytest.mark.parametrize("size", ["", "tiny"])
def test_the_hardness_of_puzzles_is_set_on_the_command_line(size):
    config = override(load("stage2", size), ["--config.task.hardness=(4, 8)"])
    assert tuple(plain(config)["task"]["hardness"]) == (4, 8)
    assert plain(load("stage2", size))["task"]["hardness"] is None


def test_a_separate_stage_equals_the_stage_of_three_stage():
    for size in ("", "tiny"):
        stages = {stage.name: stage for stage in run_spec(plain(load("three_stage", size))).stages}
        for name in STAGES:
            assert run_spec(plain(load(name, size))).stages == (stages[name],)


@pytest.mark.parametrize(("name", "task"), [("gsm8k", FileTask), ("gym", GymTask), ("puzzle_files", PuzzleFileTask)])
def test_other_tasks_load(name, task):
    spec = run_spec(plain(load(name, "1.5b")))
    assert isinstance(spec.task, task)
    assert {kind for kind, _ in spec.evaluation.pool} == {kind for kind, _ in spec.stages[0].pool}


def test_math_is_gsm8k_with_other_files_and_another_rule():
    spec, other = run_spec(plain(load("math", "1.5b"))), run_spec(plain(load("gsm8k", "1.5b")))
    assert (spec.name, spec.workdir, spec.reward.rule) == ("math", Path("runs/math_1.5b"), "math-1")
    assert ([kind for kind, *_ in spec.task.files], spec.task.rules) == (["math", "math"], ("math-1",))
    assert spec.evaluation.pool == (("math", 500),) and spec.stages[0].pool == (("math", 7000),)
    (stage,), (known,) = spec.stages, other.stages
    assert dataclasses.replace(stage, name=known.name, pool=known.pool) == known


def test_tiny_base_loads():
    spec = supervised_spec(plain(importlib.import_module("configs.tiny_base").get_config()))
    assert [phase.name for phase in spec.phases] == ["skill", "habit"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ABLATIONS)
def test_the_settings_of_a_shipped_sweep_are_different_runs(name, size, tmp_path):
    path = f"configs/ablations/{name}.py" + (f":{size}" if size else "")
    runs = plan_sweep(path, {}, tmp_path)
    assert len({run.workdir for run in runs}) == len(runs) >= 6
    module, config = importlib.import_module(f"configs.ablations.{name}"), load(f"ablations.{name}", size)
    assert config.workdir == f"runs/{name}" + (f"_{size}" if size else "")
    specs = [
        run_spec(changed(module.get_config(size), fields)) for fields in module.get_sweep(size)["settings"].values()
    ]
    assert len(set(specs)) == len(specs) >= 2
    # All are evaluated in the same way, so that they can be compared.
    assert len({(spec.evaluation, spec.evaluation.rule or spec.reward.rule) for spec in specs}) == 1


@pytest.fixture(scope="module")
def selected_once():
    """The settings of a sweep share most problems; generate each pool once."""
    patch, select, kept = pytest.MonkeyPatch(), PuzzleTask.select, {}

    def remembered(self, split, pool, seed, exclude=()):
        key = self, split, tuple(pool), seed, frozenset(exclude)
        if key not in kept:
            kept[key] = select(self, split, pool, seed, exclude)
        return kept[key]

    patch.setattr(PuzzleTask, "select", remembered)
    yield
    patch.undo()


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_setting_of_a_shipped_sweep_reaches_its_first_step(name, selected_once):
    """What `train` builds and checks before the first step: problems, prompts, lengths, programs, shapes."""
    module = importlib.import_module(f"configs.ablations.{name}")
    for setting, changes in module.get_sweep("tiny")["settings"].items():
        fields = changed(module.get_config("tiny"), changes)
        spec = run_spec(fields)
        terminal = Terminal(spec.total_steps, console=Console(quiet=True))
        trainer = Trainer(spec, Path(spec.model.path), terminal, fields)
        assert len(trainer.problem_set.held_out) == sum(count for _, count in spec.evaluation.pool), setting
        assert not spec.workdir.exists()
    assert trainer.manifest()["problems"]["held_out"]["count"] == len(trainer.problem_set.held_out)


def test_sft_settings_have_as_many_responses_or_the_same_problems_as_rl():
    for size in SIZES:
        module = importlib.import_module("configs.ablations.sft_or_rl")
        specs = {
            name: run_spec(changed(module.get_config(size), fields))
            for name, fields in module.get_sweep(size)["settings"].items()
        }
        (rl,), (sft,), (same,) = (specs[name].stages for name in ("rl", "sft", "sft_same_problems"))
        assert rl.prompts * rl.samples == sft.prompts * sft.samples == 256
        assert (same.prompts, same.samples) == (rl.prompts, 1)
        for one in (sft, same):
            assert (
                dataclasses.replace(one, prompts=rl.prompts, samples=rl.samples, kl_coefficient=rl.kl_coefficient) == rl
            )


def test_the_sweep_of_algorithms_has_every_recipe_unchanged():
    module = importlib.import_module("configs.ablations.algorithm")
    sweep = module.get_sweep()
    assert list(sweep["settings"]) == list(RECIPES)
    for name, fields in sweep["settings"].items():
        spec = run_spec(changed(module.get_config(), fields))
        row = dataclasses.replace(RECIPES[name], max_length=spec.algorithm.loss.max_length)
        assert spec.algorithm.loss == row
        assert row.kl_placement == "none" or spec.stages[0].kl_coefficient == row.kl_coefficient
        assert spec.algorithm.epochs * spec.algorithm.minibatches > 1  # otherwise clipping has no effect


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (("reward", "rule"), "strict", "reward.rule"),
        (("dtype",), "float16", "dtype"),
        (("algorithm", "recipe"), "grp", "grp"),
        (("task", "splits"), {"train": 1.0}, "task.splits"),
        (("samples",), 1, "samples"),
        (("pool",), {"p3": -5}, "pool"),
        (("task", "name"), "chess", "task.name"),
        (("prompts",), 1000, "pool"),
        (("sampling", "top_p"), 0.0, "stage1.sampling.top_p: expected above 0, up to 1"),
        (("sampling", "top_k_end"), 40, "top_k: expected 0 .off. at both ends"),
        (("sampling", "min_p_end"), 1.5, "sampling.min_p: expected 0 .off. to 1, got 0.0 to 1.5"),
        (("sampling", "temperature"), 0.0, "temperature"),
        (("rollouts", "every"), 0, "rollouts.every"),
        (("algorithm", "dual_clip"), 0.5, "dual_clip: expected above 1"),
        (("algorithm", "lam"), 0.9, "algorithm.lam: expected none, since recipe grpo does not use it, got 0.9"),
        (("algorithm", "critic_learning_rate"), -1.0, "critic_learning_rate: expected 0 or more"),
        (("kl_coefficient",), -0.1, "stage1.kl_coefficient: expected 0 or more"),
        (("learning_rate", "value"), -1e-5, "expected values and warm-up steps of 0 or more"),
        (("sampling", "temperature_end"), 1e-5, "temperature: expected at least 0.0001 in training"),
        (("sampling", "temperature"), float("inf"), "temperature"),
        (("sampling", "top_k"), 2**31, "top_k: expected 0"),
        (("evaluation", "samples"), -1, "evaluation.samples: expected 0 or more"),
        (
            ("evaluation", "temperature"),
            -1.0,
            "evaluation.temperature: expected 0 .greedy. or at least 0.0001, got -1.0",
        ),
        (("evaluation", "max_new_tokens"), 0, "evaluation.max_new_tokens: expected 1 or more"),
        (("reward", "answer_right"), float("nan"), "reward.answer_right: expected a number, got nan"),
        (("optimizer", "eps"), 0.0, "eps: expected above 0"),
        (("optimizer", "b1"), 1.0, "b1: expected 0 to under 1"),
        (("optimizer", "clip_norm"), -1.0, "clip_norm"),
        (("attention",), "cudnn", "attention: expected plain with dtype=float32"),
        (("reward", "rule"), "gsm8k-1", "can judge the task"),
        (("evaluation", "rule"), "strict", "evaluation.rule"),
    ],
)
def test_wrong_values_are_refused_by_name(field, value, message):
    config = plain(load("stage1", "tiny"))
    group = config
    for name in field[:-1]:
        group = group[name]
    group[field[-1]] = value
    with pytest.raises(ValueError, match=message):
        run_spec(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm.recipe": "dapo", "kl_coefficient": 0.04}, "kl_coefficient: expected none, as this .* no KL"),
        ({"algorithm.recipe": "rloo", "algorithm.clip_high": 0.3}, "clip_high: .* a surrogate other than likelihood"),
        ({"algorithm.recipe": "sft", "algorithm.importance_cap": 2.0}, "importance_cap: .* scored samples"),
        ({"algorithm.recipe": "sft", "algorithm.kl_placement": "reward"}, "kl_placement: expected loss or none"),
    ],
)
def test_fields_that_an_algorithm_does_not_use_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        run_spec(changed(load("stage1", "tiny"), changes))

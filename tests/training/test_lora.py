"""A run that trains adapters: exact resume without a copy of the base, replay, export both ways, a plan that counts."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

import jaxrl.convert
import jaxrl.export
from jaxrl.checkpointing.fingerprint import fingerprint
from jaxrl.checkpointing.restore import open_params, restore_params, run_lora
from jaxrl.inference.load import find_model, load_params_of
from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.planning.plan import Job, plan_shapes
from jaxrl.runtime.hardware import Devices
from jaxrl.training import initial_state, run_log
from jaxrl.training.initial_state import frozen_reference
from jaxrl.training.replay import replay
from jaxrl.training.run_spec import run_spec
from models.convert import load_params, save_params
from models.lora import pairs

STEPS = 3
ADAPTED = (
    {"lora.rank": 2, "lora.alpha": 8.0}
    | {f"stages.stage{stage}.steps": 1 for stage in (1, 2, 3)}
    | {f"stages.stage{stage}.learning_rate.value": 1e-2 for stage in (1, 2, 3)}
)
SHARDED = ADAPTED | {"devices": 0, "mesh.data": 2, "mesh.fsdp": 2, "dtype": "bfloat16"}


@pytest.fixture(scope="module")
def adapted(small, judged, tmp_path_factory):
    """An undisturbed run and its folder."""
    workdir = tmp_path_factory.mktemp("adapted") / "run"
    run = small.run(small.fields(workdir, ADAPTED))
    run.train()
    return run, workdir


def nbytes(tree):
    return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))


def test_it_learns_and_keeps_no_copy_of_its_base(small, adapted):
    run, workdir = adapted
    state = run.components.abstract_state()
    shapes = json.loads((workdir / "checkpoints" / str(STEPS) / "note" / "metadata").read_text())["leaves"]
    count = sum(int(np.prod(json.loads(shape))) for name, shape, _ in shapes if name.startswith(".params"))
    assert count == sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert not any(name.startswith(".base") for name, _, _ in shapes)
    assert [record["gradient_norm"] > 0 for record in small.numbers(workdir)[1:]] == [True] * STEPS
    # sampler and learner agree, though the one multiplies merged weights and the other has adapters beside them
    assert all(record["mismatch/max"] < 1e-3 for record in small.numbers(workdir)[1:])
    assert run_lora(workdir) == run.spec.model.lora


def test_the_first_kl_is_zero_and_needs_no_second_model(small, adapted):
    run, workdir = adapted
    assert small.numbers(workdir)[1]["loss/kl"] < 1e-8 < 1e-6 < small.numbers(workdir)[STEPS]["loss/kl"]
    state = run.components.init_state(initial_state.first_weights(run.components, run.spec, run.model_folder))
    reference = frozen_reference(run.components, run.spec, run.model_folder, state)
    same = jax.tree.leaves(state.base)
    assert sum(any(leaf is other for other in same) for leaf in jax.tree.leaves(reference)) == len(same)


def test_a_killed_run_resumes_exactly(small, adapted, judged, tmp_path, monkeypatch):
    fields, real, seen = small.fields(tmp_path / "run", ADAPTED), run_log.write_rollouts, []

    def dies(*args):
        seen.append(args)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(run_log, "write_rollouts", dies)
        with pytest.raises(KeyboardInterrupt):
            small.run(fields).train()
    small.run(fields).train()
    assert small.numbers(tmp_path / "run") == small.numbers(adapted[1])
    for mine, theirs in zip(small.params(tmp_path / "run"), small.params(adapted[1]), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("step", [1, STEPS])
def test_a_completion_is_replayed(adapted, step):
    assert replay(adapted[0], step, 1, 2).identical


@pytest.fixture
def moved(small, adapted, tmp_path):
    """A copy of the run whose base differs in one bit."""
    shutil.copytree(adapted[1], tmp_path / "run")
    shutil.copytree(small.base, tmp_path / "model")
    leaves, tree = jax.tree.flatten(load_params(small.base, small.config))
    changed = jax.tree.unflatten(tree, [jnp.nextafter(leaves[0], jnp.full_like(leaves[0], jnp.inf)), *leaves[1:]])
    save_params(tmp_path / "model", changed, small.config, source_folder=small.base)
    path = tmp_path / "run" / "config.json"
    path.write_text(path.read_text().replace(str(small.base), str(tmp_path / "model")))
    return tmp_path


def test_adapters_are_refused_with_another_base(small, moved):
    message = "belong to weights with the fingerprint"
    for read in (restore_params, open_params):
        with pytest.raises(ValueError, match=message):
            read(moved / "run", small.config)
    fields = small.fields(moved / "run", ADAPTED | {"model": str(moved / "model")})
    with pytest.raises(ValueError, match=message):
        small.run(fields).train()


def test_merged_weights_and_adapter_folder_agree_in_torch(small, adapted, tmp_path):
    """Adding B A of the adapter folder to the base in torch gives the merged export and a restored checkpoint."""
    _, workdir = adapted
    assert jaxrl.export.main([f"--checkpoint={workdir}", f"--output={tmp_path / 'merged'}"]) == 0
    assert jaxrl.export.main([f"--checkpoint={workdir}", f"--output={tmp_path / 'adapter'}", "--adapter"]) == 0
    for name in ("merged", "adapter"):
        theirs = workdir / ("export" if name == "merged" else name)
        for path in theirs.iterdir():
            assert path.read_bytes() == (tmp_path / name / path.name).read_bytes(), path
    restored, _ = restore_params(workdir, small.config)
    exported = load_params(tmp_path / "merged", small.config)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), exported, restored)
    model, merged = (
        transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for folder in (small.base, tmp_path / "merged")
    )
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert len(tensors) == 2 * 7 * small.config.num_hidden_layers
    assert type(config["lora_alpha"]) is int  # as PEFT declares it
    tokens = torch.arange(24)[None]
    before = model(tokens).logits
    for name, module in model.named_modules():
        if name.split(".")[-1] in config["target_modules"]:
            down, up = (torch.from_numpy(tensors[f"base_model.model.{name}.lora_{side}.weight"]) for side in "AB")
            assert (down.shape, up.shape) == ((2, module.in_features), (module.out_features, 2))
            module.weight.data += config["lora_alpha"] / config["r"] * up @ down
    torch.testing.assert_close(model(tokens).logits, merged(tokens).logits, atol=1e-4, rtol=0)
    assert (merged(tokens).logits - before).abs().max() > 1e-2


def test_evaluation_and_later_runs_see_the_merged_weights(small, adapted, tmp_path):
    """A run that starts from adapters merges them into its base; the reference is then a copy of the first model."""
    _, workdir = adapted
    found = load_params_of(find_model(str(workdir)), "float32", make_mesh(MeshSpec(data=1, fsdp=-1)))
    run = small.run(small.fields(tmp_path / "run", ADAPTED | {"init_from": str(workdir)}))
    state = run.components.init_state(initial_state.first_weights(run.components, run.spec, run.model_folder))
    for mine, theirs in zip(jax.tree.leaves(state.base), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-8)  # the last digit may follow the layout
    first = load_params(small.base, small.config)
    reference = frozen_reference(run.components, run.spec, run.model_folder, state)
    np.testing.assert_array_equal(reference["layers"]["mlp"]["up"]["kernel"], first["layers"]["mlp"]["up"]["kernel"])
    assert (np.asarray(state.base["layers"]["mlp"]["up"]["kernel"]) != first["layers"]["mlp"]["up"]["kernel"]).any()


def test_adapters_whose_base_is_in_no_folder_are_not_exported_alone(small, adapted, judged, tmp_path):
    """The adapter folder would name the wrong base."""
    _, workdir = adapted
    run = small.run(small.fields(tmp_path / "run", ADAPTED | {"init_from": str(workdir)}))
    run.train()
    assert not (tmp_path / "run" / "adapter").exists() and (tmp_path / "run" / "export" / "config.json").is_file()
    assert any("adapter/ is not written" in line for line in small.logged)


def test_a_plan_counts_base_and_adapters(small, adapted, tmp_path):
    spec = run_spec(small.fields(tmp_path, SHARDED))
    run = small.run(small.fields(tmp_path, SHARDED))
    state = run.components.init_state(initial_state.first_weights(run.components, run.spec, run.model_folder))
    planned = {
        phase.name: phase.parts
        for phase in plan_shapes(Job(spec, small.config, 40, Devices("cpu", 4, 1, 2**30, None))).phases
    }
    assert planned["update"]["base"] == nbytes(state.base) == planned["sync"]["merged"]
    assert planned["update"]["parameters"] == planned["update"]["gradients"] == nbytes(state.params)
    assert planned["update"]["reference"] == nbytes(state.params)
    assert planned["update"]["moments"] == nbytes(state.opt_state)
    assert planned["decode"]["decode_weights"] == nbytes(run.components.decode_weights(state))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.base)} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}


def test_a_rounded_base_has_the_fingerprint_of_its_rounded_source(small):
    wide = load_params(small.base, small.config)
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), wide)
    assert fingerprint(wide, "bfloat16") == fingerprint(narrow) != fingerprint(wide)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora.rank": -1}, r"lora\.rank: expected a whole number of 0"),
        ({"lora.alpha": -2.0}, r"lora\.alpha: expected above 0"),
        ({"algorithm.recipe": "ppo"}, "an algorithm that has a critic"),
        ({"algorithm.reference.every": 1, "algorithm.reference.decay": 0.5}, r"reference\.decay: expected 0 with lora"),
    ],
)
def test_settings_that_adapters_do_not_support_are_errors(small, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run_spec(small.fields(tmp_path, ADAPTED | changes))


@pytest.mark.parametrize(
    ("more", "message"),
    [(["--dtype=bfloat16"], "expected no --dtype"), (["--source=BASE"], "belong to weights with the fingerprint")],
)
def test_invalid_adapter_exports_are_errors(adapted, tmp_path, capsys, more, message):
    more = [argument.replace("BASE", "models/tiny") for argument in more]
    assert jaxrl.export.main([f"--checkpoint={adapted[1]}", f"--output={tmp_path / 'out'}", "--adapter", *more]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_run_without_adapters_has_no_adapter_export(small, tmp_path, capsys):
    assert jaxrl.convert.main([f"--input={small.base}", f"--output={tmp_path / 'run'}"]) == 0
    assert jaxrl.export.main([f"--checkpoint={tmp_path / 'run'}", f"--output={tmp_path / 'out'}", "--adapter"]) == 2
    assert "trained all weights" in capsys.readouterr().err


def test_each_kernel_has_one_pair(adapted):
    run, _ = adapted
    assert len(list(pairs(run.components.abstract_state().params))) == 7

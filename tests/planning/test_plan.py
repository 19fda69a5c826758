"""Plans match the memory of real runs; runs that cannot fit are errors with advice; step times at the peak rates."""

import dataclasses
import importlib
import json
import re

import jax
import pytest

from jaxrl import train
from jaxrl.algorithms.recipes import recipe
from jaxrl.command_line import override_arguments, plain
from jaxrl.learning.mesh import MeshSpec
from jaxrl.planning.advice import advice, check_fits, largest_sizes
from jaxrl.planning.lower_learner import lower_update
from jaxrl.planning.memory import finish_temporaries
from jaxrl.planning.plan import Job, largest_shape, lower_programs, plan_shapes, state_shapes
from jaxrl.planning.roofline import link_rate, step_times
from jaxrl.runtime import hardware
from jaxrl.runtime.hardware import ACCELERATORS, Devices, read_devices
from jaxrl.training.components import build_components
from jaxrl.training.initial_state import load_weights
from jaxrl.training.run_spec import run_spec
from models.config import Qwen2Config, preset
from models.folder import read_config

GIB = 2**30


def job(name="stage2", size="7b", devices="4xA100-80GB", **fields):
    spec = run_spec(plain(importlib.import_module(f"configs.{name}").get_config(size)))
    return Job(spec.changed(**fields), preset(spec.model.path), 400, read_devices(devices))


def within(plan, memory):
    """The same plan on devices with this much memory, in bytes."""
    return plan_shapes(dataclasses.replace(plan.job, devices=dataclasses.replace(plan.job.devices, memory=memory)))


def nbytes(tree):
    return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))


def test_parts_of_a_plan_match_the_bytes_of_a_run(small, tmp_path):
    spec = run_spec(small.fields(tmp_path, {"devices": 0, "algorithm.recipe": "ppo"}.items()))
    spec = dataclasses.replace(
        spec, mesh=MeshSpec(data=2, fsdp=2), optimizer=dataclasses.replace(spec.optimizer, moment_dtype="bfloat16")
    )
    components = build_components(spec, small.config, 48)
    state = components.init_state(load_weights(components, small.base))
    weights = components.sampler.decode_weights(state.params)
    planned = {
        phase.name: phase.parts
        for phase in plan_shapes(Job(spec, small.config, 40, Devices("cpu", 4, 1, GIB, None))).phases
    }
    assert planned["update"]["parameters"] == nbytes(state.params)
    assert planned["update"]["gradients"] == nbytes(state.critic.params)  # larger than the policy by the value head
    assert planned["update"]["moments"] == nbytes(state.opt_state)
    assert planned["update"]["critic"] == nbytes(state.critic)
    assert planned["decode"]["decode_weights"] == nbytes(weights)
    longest = components.sampler.cache_lengths[-1]
    cache = nbytes(components.sampler.programs.empty_cache(longest))
    batches = planned["decode"]["cache"] / cache  # on a CPU all rows are in one batch
    assert batches == 1


@pytest.mark.parametrize("name", ["stage1", "stage2", "stage3", "three_stage"])
def test_recipe_fits_four_a100s_with_seven_gib_free(name):
    plan = plan_shapes(job(name))
    assert {phase.name for phase in plan.phases} == {"sync", "prefill", "decode", "reference", "update"}
    assert plan.fits and plan.largest_phase.bytes < 72 * GIB - 7 * GIB


def test_estimate_for_the_tiny_model_is_close_to_the_cpu_compiler():
    spec = run_spec(plain(importlib.import_module("configs.three_stage").get_config("tiny")))
    config, devices = read_config("models/tiny"), Devices("cpu", 1, 1, GIB, None)
    tiny = Job(spec, config, 76, devices)
    components = build_components(spec, config, tiny.longest, jax.devices()[:1])
    programs = lower_update(components.update, components.abstract_state(), *largest_shape(tiny))
    estimated = {phase.name: phase.parts["temporaries"] for phase in plan_shapes(tiny).phases}
    for name, phase in (("accumulate", "update"), ("reference", "reference")):
        compiled = programs[name].compile().memory_analysis().temp_size_in_bytes
        assert estimated[phase] == pytest.approx(compiled, rel=0.35)


def test_plan_without_kl_has_no_reference_and_no_reference_pass():
    loss = dataclasses.replace(job().spec.algorithm.loss, kl_placement="none")
    plan = plan_shapes(job(algorithm={"loss": loss}))
    assert "reference" not in {phase.name for phase in plan.phases}
    assert not any("reference" in phase.parts for phase in plan.phases)
    assert "reference" in {phase.name for phase in plan_shapes(job(algorithm={"loss": loss, "epochs": 2})).phases}


def test_largest_sizes_fit_and_one_more_row_does_not():
    tight = within(plan_shapes(job()), 55 * GIB)
    sizes = largest_sizes(tight)
    length = 2560 * 4  # one more row on each device
    for name, step in (("layout.micro_tokens", length), ("sampler.rows", 1)):
        group, field = name.split(".")
        assert sizes[name] > 0
        phases = ("update",) if field == "micro_tokens" else ("prefill", "decode")
        for more, fits in ((0, True), (step, False)):
            plan = plan_shapes(tight.job.changed(**{group: {field: sizes[name] + more}}))
            assert all(phase.bytes <= 55 * GIB for phase in plan.phases if phase.name in phases) is fits


def test_largest_sizes_are_limited_to_the_rows_of_a_step():
    sizes = largest_sizes(within(plan_shapes(job()), 10_000 * GIB))
    assert sizes == {"layout.micro_tokens": 512 * 2560, "sampler.rows": 200 * 8 // 4}  # rows of the evaluation


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (60, "It fits with --config.optimizer.moment_dtype=bfloat16 or --config.mesh.tensor=2 or"),
        (45, "It fits with --config.optimizer.moment_dtype=bfloat16 --config.mesh.tensor=2."),
        (20, "It fits on 16 such devices with --config.optimizer.moment_dtype=bfloat16 --config.mesh.tensor=4."),
        (1, "No known change"),
    ],
)
def test_advice(memory, expected):
    plan = within(plan_shapes(job()), memory * GIB)
    assert not plan.fits
    assert expected in advice(plan)


def test_advice_lists_all_smaller_remat_policies_and_adamw_instead_of_muon():
    plan = within(plan_shapes(job(model={"remat": "none"})), 64 * GIB)
    assert advice(plan) == "It fits with --config.remat=dots or --config.remat=full."
    muon = dataclasses.replace(plan.job.spec.optimizer, kind="muon", moment_dtype="bfloat16")
    plan = within(plan_shapes(job(optimizer=muon, sampler={"rows": 16})), 46 * GIB)
    assert plan.largest_phase.name == "update" and advice(plan) == "It fits with --config.optimizer.kind=adamw."


def test_shortage_within_the_tolerance_is_a_warning_and_beyond_it_an_error():
    plan, printed = plan_shapes(job()), []
    largest = plan.largest_phase
    check_fits(plan.job, printed.append)
    assert printed == []
    check_fits(within(plan, largest.bytes - 1).job, printed.append)
    assert len(printed) == 1 and "warning: this run needs 63.4 GiB on each device in the phase prefill" in printed[0]
    with pytest.raises(ValueError, match=r"(?s)a device has 58.0 GiB.*gradients.*It fits with --config"):
        check_fits(within(plan, 58 * GIB).job, printed.append)
    check_fits(within(plan, 0).job, printed.append)  # memory size unknown
    assert len(printed) == 1


def test_train_stops_before_it_writes_if_a_run_cannot_fit(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hardware, "present_devices", lambda devices: Devices("cpu", 1, 1, 2**16, None))
    fields = {"model": small.base, "sampling.max_new_tokens": 8, "evaluation.max_new_tokens": 8, "compile_cache": ""}
    fields |= {"pool.p3": 16, "evaluation.pool.p2": 0, "evaluation.pool.p3": 4}
    arguments = ["--config=configs/stage1.py:tiny", *override_arguments(fields)]
    assert train.main([*arguments, f"--workdir={tmp_path / 'run'}"]) == 2
    assert re.search(r"jaxrl.train: this run needs .* GiB on each device in the phase", capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["4xA100", "A100-80GB", "0xH200", "4 x H200", "gpu", "-1xH200"])
def test_unknown_devices_are_an_error(text):
    with pytest.raises(ValueError, match="--devices: expected cpu or COUNTxNAME"):
        read_devices(text)


def test_hosts_have_eight_devices_by_default():
    assert read_devices("64xH100-80GB").hosts == 8
    assert read_devices("4xA100-80GB").hosts == 1
    assert read_devices("16xH200", hosts=4).hosts == 4
    with pytest.raises(ValueError, match="--hosts: expected a divisor of the 64 devices, got 7"):
        read_devices("64xH100-80GB", hosts=7)


def test_link_rate_within_a_host_and_between_hosts():
    devices, rates = read_devices("64xH100-80GB"), ACCELERATORS["H100-80GB"].peak_rates
    assert link_rate(range(8), devices) == rates.link == 450e9
    assert link_rate(range(64), devices) == 8 * rates.network == 400e9  # eight adapters of 50 GB/s a host
    assert link_rate(range(0, 64, 8), devices) == rates.network


def test_step_time_at_the_published_rates():
    """Computed by hand: 512 rows of 2,560 tokens; 8 passes of 7.07e9 weights (and attention) on 4 x 312e12 FLOP/s."""
    (step,) = step_times(plan_shapes(job()), None)
    phases = {phase["name"]: phase for phase in step["phases"]}
    weights, tokens = 28 * (3584 * 128 * 64 + 3 * 3584 * 18_944) + 152_064 * 3584, 512 * 2560
    pairs = 512 * 2560 * 2561 / 2
    flops = 8 * (weights * tokens + 2 * 28 * 3584 * pairs)
    assert phases["update"]["flops"] == pytest.approx(flops / 4, rel=1e-6)
    assert phases["update"]["seconds"] == pytest.approx(flops / 4 / 312e12, rel=1e-6)
    gathered = 128 * 0.75 * 2 * 2 * 28 * (3584 * 128 * 64 + 3 * 3584 * 18_944)  # forward and backward, bfloat16
    assert gathered < phases["update"]["sent_bytes"]["all-gather"] < 1.3 * gathered
    # 2,048 tokens for each of 128 rows per GPU: the weights, and a cache that grows from 512 to 2,496 positions.
    assert 2048 * 15.2e9 / 2.039e12 < phases["decode"]["seconds"] < 2048 * (15.2e9 + 128 * 2496 * 57_344) / 2.039e12
    assert phases["decode"]["bound"] == "memory"
    (half,) = step_times(plan_shapes(job()), 1024)
    assert half["seconds"] < 0.6 * step["seconds"]
    assert json.loads(json.dumps(step)) == step


def test_no_step_times_without_published_rates():
    assert step_times(plan_shapes(job(devices="cpu", mesh=MeshSpec())), None) == []


def phases_of_recipe(name="grpo", **fields):
    """The phases of a step of stage 2 with the loss of a recipe."""
    (step,) = step_times(plan_shapes(job(algorithm={"loss": recipe(name)} | fields)), None)
    return {phase["name"]: phase for phase in step["phases"]}


def test_critic_costs_as_much_as_the_policy_without_its_head():
    """The head has 0.55e9 of the 7.07e9 weights. The values are one more forward pass."""
    ppo, grpo = phases_of_recipe("ppo"), phases_of_recipe("grpo")
    assert ppo["update"]["flops"] == pytest.approx(1.93 * grpo["update"]["flops"], rel=0.01)
    assert ppo["reference"]["flops"] == pytest.approx(2.93 * grpo["reference"]["flops"], rel=0.01)
    assert 1.8 < ppo["update"]["memory_bytes"] / grpo["update"]["memory_bytes"] < 2
    for phase, times in (("update", 1.7), ("reference", 2.8)):
        ratio = ppo[phase]["sent_bytes"]["all-gather"] / grpo[phase]["sent_bytes"]["all-gather"]
        assert times < ratio < times + 0.25


def test_kl_in_the_reward_adds_a_forward_pass_of_the_policy():
    shaped, grpo = phases_of_recipe("reinforce_pp"), phases_of_recipe("grpo")
    for number in ("flops", "memory_bytes"):
        assert shaped["reference"][number] == 2 * grpo["reference"][number]
    assert shaped["update"] == grpo["update"]


@pytest.mark.parametrize("fields", [{"epochs": 2}, {"minibatches": 2}], ids=str)
def test_several_updates_per_rollout_add_one_pass_for_old_log_probabilities(fields):
    several, once = phases_of_recipe("grpo", **fields), phases_of_recipe("grpo")
    assert several["reference"]["flops"] == 2 * once["reference"]["flops"]
    assert (
        phases_of_recipe("reinforce_pp", **fields)["reference"]["flops"] == several["reference"]["flops"]
    )  # no third pass
    assert phases_of_recipe("cispo", **fields)["reference"]["flops"] == once["reference"]["flops"]
    assert several["update"]["flops"] == fields.get("epochs", 1) * once["update"]["flops"]


def test_remax_decodes_a_greedy_row_per_prompt_and_does_not_train_on_it():
    remax, shaped = phases_of_recipe("remax"), phases_of_recipe("reinforce_pp")
    assert remax["decode"]["flops"] == pytest.approx(65 / 64 * shaped["decode"]["flops"])
    assert remax["update"]["flops"] == shaped["update"]["flops"]


def test_plan_includes_the_merge_of_adapters(small, tmp_path):
    """Its temporaries are the largest kernel of a layer in float32."""
    spec = run_spec(small.fields(tmp_path, {"lora.rank": 4, "devices": 1}.items()))
    config = Qwen2Config(288, 64, 512, 2, 4, 2, 16, max_position_embeddings=256)
    planned = Job(spec, config, 40, Devices("cpu", 1, 1, GIB, None))
    assert "merge" in lower_programs(planned, build_components(spec, config, planned.longest))
    assert plan_shapes(planned).phases[0].parts["temporaries"] == 64 * 512 * 4


@pytest.mark.parametrize(("kind", "gib"), [("adamw", 1.77), ("adafactor", 0), ("sgd", 0), ("muon", 22.4)])
def test_temporaries_of_the_optimizer_step(kind, gib):
    """As XLA compiles it for 7B on four A100s (tests/gpu_compile.py)."""
    params = state_shapes(job())[0].params
    assert finish_temporaries(params, kind) / GIB == pytest.approx(gib, rel=0.03)

"""A plan counts what a run will hold; it refuses what can't fit, and says what would."""

import dataclasses
import importlib
import json

import jax
import pytest

from jaxrl.algorithms.recipes import recipe
from jaxrl.flags import plain
from jaxrl.learning.mesh import MeshSpec
from jaxrl.planning.advice import advice, largest_counts, refuse_unfit
from jaxrl.planning.lower_learner import lower
from jaxrl.planning.memory import finish_temporaries
from jaxrl.planning.plan import Job, held_state, largest_shape, lower_programs, plan_shapes
from jaxrl.planning.roofline import link_rate, step_times
from jaxrl.runtime.hardware import ACCELERATORS, Devices, read_devices
from jaxrl.training import trainer as loop
from jaxrl.training.components import build_components, load_weights
from jaxrl.training.run_spec import run_spec
from models.config import Qwen2Config, preset
from models.folder import read_config

GIB = 2**30


def job(name="stage2", size="7b", devices="4xA100-80GB", **fields):
    spec = run_spec(plain(importlib.import_module(f"configs.{name}").get_config(size)))
    return Job(dataclasses.replace(spec, **fields), preset(spec.model), 400, read_devices(devices))


def within(plan, memory):
    """The same plan on devices with so many bytes."""
    return plan_shapes(dataclasses.replace(plan.job, devices=dataclasses.replace(plan.job.devices, memory=memory)))


def nbytes(tree):
    return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))


def test_the_parts_of_a_plan_are_the_bytes_of_the_run(small, tmp_path):
    spec = run_spec(small.fields(tmp_path, {"devices": 0, "algorithm.recipe": "ppo"}.items()))
    spec = dataclasses.replace(
        spec, mesh=MeshSpec(data=2, fsdp=2), optimizer=dataclasses.replace(spec.optimizer, moment_dtype="bfloat16")
    )
    components = build_components(spec, small.config, 48)
    state = components.begin(load_weights(components, small.base))
    weights = components.sampler.decode_weights(state.params)
    planned = {
        phase.name: phase.parts
        for phase in plan_shapes(Job(spec, small.config, 40, Devices("cpu", 4, 1, GIB, None))).phases
    }
    assert planned["update"]["parameters"] == nbytes(state.params)
    assert planned["update"]["gradients"] == nbytes(state.critic.params)  # the larger of the two by its value head
    assert planned["update"]["moments"] == nbytes(state.opt_state)
    assert planned["update"]["critic"] == nbytes(state.critic)
    assert planned["decode"]["decode_weights"] == nbytes(weights)
    longest = components.sampler.cache_lengths[-1]
    cache = nbytes(components.sampler.programs.empty_cache(longest))
    batches = planned["decode"]["cache"] / cache  # on a CPU every row has its slot at once
    assert batches == 1


@pytest.mark.parametrize("name", ["stage1", "stage2", "stage3", "three_stage"])
def test_the_recipe_fits_four_a100s_with_seven_gib_to_spare(name):
    plan = plan_shapes(job(name))
    assert {phase.name for phase in plan.phases} == {"sync", "prefill", "decode", "reference", "update"}
    assert plan.fits and plan.largest_phase.bytes < 72 * GIB - 7 * GIB


def test_the_estimate_for_the_embedded_model_is_near_what_the_compiler_for_cpus_says():
    spec = run_spec(plain(importlib.import_module("configs.three_stage").get_config("tiny")))
    config, devices = read_config("models/tiny"), Devices("cpu", 1, 1, GIB, None)
    tiny = Job(spec, config, 76, devices)
    components = build_components(spec, config, tiny.longest, jax.devices()[:1])
    programs = lower(components.update, components.abstract(), *largest_shape(tiny))
    said = {phase.name: phase.parts["temporaries"] for phase in plan_shapes(tiny).phases}
    for name, phase in (("accumulate", "update"), ("reference", "reference")):
        real = programs[name].compile().memory_analysis().temp_size_in_bytes
        assert said[phase] == pytest.approx(real, rel=0.35)


def test_without_a_kl_there_is_no_reference_and_no_pass_of_it():
    loss = dataclasses.replace(job().spec.loss, kl_placement="none")
    plan = plan_shapes(job(loss=loss))
    assert "reference" not in {phase.name for phase in plan.phases}
    assert not any("reference" in phase.parts for phase in plan.phases)
    assert "reference" in {phase.name for phase in plan_shapes(job(loss=loss, epochs=2)).phases}


def test_the_largest_counts_fit_and_one_more_does_not():
    tight = within(plan_shapes(job()), 55 * GIB)
    counts = largest_counts(tight)
    length = 2560 * 4  # a row more on each device
    for name, field, step in (("layout.micro_tokens", "micro_tokens", length), ("sampler.rows", "sampler_rows", 1)):
        assert counts[name] > 0
        phases = ("update",) if field == "micro_tokens" else ("prefill", "decode")
        for more, fits in ((0, True), (step, False)):
            plan = plan_shapes(tight.job.changed(**{field: counts[name] + more}))
            assert all(phase.bytes <= 55 * GIB for phase in plan.phases if phase.name in phases) is fits


def test_a_step_can_use_no_more_than_all_of_its_rows():
    counts = largest_counts(within(plan_shapes(job()), 10_000 * GIB))
    assert counts == {"layout.micro_tokens": 512 * 2560, "sampler.rows": 200 * 8 // 4}  # of the evaluation


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        (60, "It fits with --config.optimizer.moment_dtype=bfloat16 or --config.mesh.tensor=2 or"),
        (45, "It fits with --config.optimizer.moment_dtype=bfloat16 --config.mesh.tensor=2."),
        (20, "It fits on 16 such devices with --config.optimizer.moment_dtype=bfloat16 --config.mesh.tensor=4."),
        (1, "No change that is known here"),
    ],
)
def test_advice(memory, said):
    plan = within(plan_shapes(job()), memory * GIB)
    assert not plan.fits
    assert said in advice(plan)


def test_advice_names_every_policy_that_keeps_less_and_another_optimizer_than_muon():
    plan = within(plan_shapes(job(remat="none")), 64 * GIB)
    assert advice(plan) == "It fits with --config.remat=dots or --config.remat=full."
    muon = dataclasses.replace(plan.job.spec.optimizer, kind="muon", moment_dtype="bfloat16")
    plan = within(plan_shapes(job(optimizer=muon, sampler_rows=16)), 46 * GIB)
    assert plan.largest_phase.name == "update" and advice(plan) == "It fits with --config.optimizer.kind=adamw."


def test_temporaries_alone_are_warned_of_and_what_is_held_is_refused():
    plan, said = plan_shapes(job()), []
    largest = plan.largest_phase
    refuse_unfit(plan.job, said.append)
    assert said == []
    refuse_unfit(within(plan, largest.bytes - 1).job, said.append)
    assert len(said) == 1 and "warning: this run needs 63.4 GiB on each device in the phase prefill" in said[0]
    with pytest.raises(ValueError, match=r"(?s)there are 58.0 GiB.*gradients.*It fits with --config"):
        refuse_unfit(within(plan, 58 * GIB).job, said.append)
    refuse_unfit(within(plan, 0).job, said.append)  # devices that don't tell their memory
    assert len(said) == 1


def test_train_refuses_before_anything_is_written(small, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "present_devices", lambda devices: Devices("cpu", 1, 1, 2**16, None))
    run = small.run(small.fields(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"this run needs .* GiB on each device in the phase"):
        run.train()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["4xA100", "A100-80GB", "0xH200", "4 x H200", "gpu", "-1xH200"])
def test_unknown_devices_are_refused(text):
    with pytest.raises(ValueError, match="--devices: expected cpu, or a number"):
        read_devices(text)


def test_devices_come_in_hosts_of_eight():
    assert read_devices("64xH100-80GB").hosts == 8
    assert read_devices("4xA100-80GB").hosts == 1
    assert read_devices("16xH200", hosts=4).hosts == 4
    with pytest.raises(ValueError, match="--hosts: expected a number that divides the 64 devices, got 7"):
        read_devices("64xH100-80GB", hosts=7)


def test_a_group_in_one_host_is_linked_and_others_share_the_hosts_adapters():
    devices, rates = read_devices("64xH100-80GB"), ACCELERATORS["H100-80GB"].rates
    assert link_rate(range(8), devices) == rates.link == 450e9
    assert link_rate(range(64), devices) == 8 * rates.network == 400e9  # eight adapters of 50 GB/s a host
    assert link_rate(range(0, 64, 8), devices) == rates.network


def test_a_step_at_the_published_rates():
    """By hand: 512 rows of 2,560 tokens; 8 passes of 7.07e9 weights (and attention) on 4 x 312e12 FLOP/s."""
    (step,) = step_times(plan_shapes(job()), None)
    phases = {phase["name"]: phase for phase in step["phases"]}
    weights, tokens = 28 * (3584 * 128 * 64 + 3 * 3584 * 18_944) + 152_064 * 3584, 512 * 2560
    pairs = 512 * 2560 * 2561 / 2
    flops = 8 * (weights * tokens + 2 * 28 * 3584 * pairs)
    assert phases["update"]["flops"] == pytest.approx(flops / 4, rel=1e-6)
    assert phases["update"]["seconds"] == pytest.approx(flops / 4 / 312e12, rel=1e-6)
    gathered = 128 * 0.75 * 2 * 2 * 28 * (3584 * 128 * 64 + 3 * 3584 * 18_944)  # forward and backward, bfloat16
    assert gathered < phases["update"]["sent_bytes"]["all-gather"] < 1.3 * gathered
    # 2,048 tokens for each of 128 rows a GPU: the weights, and a cache that grows from 512 to 2,496 positions.
    assert 2048 * 15.2e9 / 2.039e12 < phases["decode"]["seconds"] < 2048 * (15.2e9 + 128 * 2496 * 57_344) / 2.039e12
    assert phases["decode"]["bound"] == "memory"
    (half,) = step_times(plan_shapes(job()), 1024)
    assert half["seconds"] < 0.6 * step["seconds"]
    assert json.loads(json.dumps(step)) == step


def test_no_times_without_published_rates():
    assert step_times(plan_shapes(job(devices="cpu", mesh=MeshSpec())), None) == []


def recipe_work(name="grpo", **fields):
    """A step of stage 2 by phase, with another recipe's row."""
    (step,) = step_times(plan_shapes(job(loss=recipe(name), **fields)), None)
    return {phase["name"]: phase for phase in step["phases"]}


def test_a_critic_learns_as_much_as_the_policy():
    """All but the head, of 0.55 of the 7.07e9 weights; its values are a pass forward."""
    ppo, grpo = recipe_work("ppo"), recipe_work("grpo")
    assert ppo["update"]["flops"] == pytest.approx(1.93 * grpo["update"]["flops"], rel=0.01)
    assert ppo["reference"]["flops"] == pytest.approx(2.93 * grpo["reference"]["flops"], rel=0.01)
    assert 1.8 < ppo["update"]["memory_bytes"] / grpo["update"]["memory_bytes"] < 2
    for phase, times in (("update", 1.7), ("reference", 2.8)):
        ratio = ppo[phase]["sent_bytes"]["all-gather"] / grpo[phase]["sent_bytes"]["all-gather"]
        assert times < ratio < times + 0.25


def test_a_kl_in_the_reward_asks_the_policy_for_a_pass_of_its_own():
    shaped, grpo = recipe_work("reinforce_pp"), recipe_work("grpo")
    for number in ("flops", "memory_bytes"):
        assert shaped["reference"][number] == 2 * grpo["reference"][number]
    assert shaped["update"] == grpo["update"]


@pytest.mark.parametrize("fields", [{"epochs": 2}, {"minibatches": 2}], ids=str)
def test_several_steps_of_a_rollout_ask_for_old_log_probabilities_once(fields):
    several, once = recipe_work("grpo", **fields), recipe_work("grpo")
    assert several["reference"]["flops"] == 2 * once["reference"]["flops"]
    assert recipe_work("reinforce_pp", **fields)["reference"]["flops"] == several["reference"]["flops"]  # no third
    assert recipe_work("cispo", **fields)["reference"]["flops"] == once["reference"]["flops"]
    assert several["update"]["flops"] == fields.get("epochs", 1) * once["update"]["flops"]


def test_remax_draws_a_greedy_row_for_each_prompt_and_learns_from_none_of_them():
    remax, shaped = recipe_work("remax"), recipe_work("reinforce_pp")
    assert remax["decode"]["flops"] == pytest.approx(65 / 64 * shaped["decode"]["flops"])
    assert remax["update"]["flops"] == shaped["update"]["flops"]


def test_a_plan_compiles_and_estimates_the_merging_of_adapters(small, tmp_path):
    """One layer's largest kernel in float32."""
    spec = run_spec(small.fields(tmp_path, {"lora.rank": 4, "devices": 1}.items()))
    config = Qwen2Config(288, 64, 512, 12, 4, 2, 16, max_position_embeddings=256)
    planned = Job(spec, config, 40, Devices("cpu", 1, 1, GIB, None))
    assert "merge" in lower_programs(planned, build_components(spec, config, planned.longest))
    assert plan_shapes(planned).phases[0].parts["temporaries"] == 64 * 512 * 4


@pytest.mark.parametrize(("kind", "gib"), [("adamw", 1.77), ("adafactor", 0), ("sgd", 0), ("muon", 22.4)])
def test_what_an_optimizers_step_holds_besides(kind, gib):
    """As XLA compiles it for 7B on four A100s; tests/gpu_compile.py asks it."""
    params = held_state(job())[0].params
    assert finish_temporaries(params, kind) / GIB == pytest.approx(gib, rel=0.03)

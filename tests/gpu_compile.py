"""Programs as XLA compiles them for A100s: decoding copies no array of cache or weight size and has no collectives; a
plan from shapes is close to the compiler's, and the recipe fits.

    make test-gpu-compile

Not part of `make test`: it needs the extra `cuda12` (about 2 GB), though no GPU.
"""

import dataclasses
import importlib
import itertools
import math
import re
from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from jaxrl.command_line import plain
from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.planning.advice import largest_sizes
from jaxrl.planning.compile_only import compile_only_devices
from jaxrl.planning.lower_learner import lower_update
from jaxrl.planning.lower_sampler import lower_sampler
from jaxrl.planning.memory import finish_temporaries, merge_temporaries
from jaxrl.planning.plan import Job, plan_compiled, plan_shapes
from jaxrl.planning.roofline import expected_collectives
from jaxrl.runtime.hardware import read_devices
from jaxrl.sampling import Sampler
from jaxrl.sampling.sampler import abstract_weights
from jaxrl.training.components import build_components
from jaxrl.training.run_spec import run_spec
from models.config import preset
from models.lora import LoRASpec

MIB, GIB = 2**20, 2**30
SLOTS, POSITIONS = 128, 2048
LEAST = 16 * MIB  # the key and value projections and the norms are smaller
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@pytest.fixture(
    scope="module",
    params=itertools.product((1, 4), (False, True)),
    ids=["one A100", "one A100, truncated", "four A100s", "four A100s, truncated"],
)
def program(request):
    """The compiled decode program, and the bytes of each weight."""
    config, (devices, truncated) = preset("7b-1m"), request.param
    mesh = make_mesh(MeshSpec(data=1, fsdp=-1), compile_only_devices("A100-80GB", devices))
    sampler = Sampler(config, mesh, dtype=jnp.bfloat16, longest=POSITIONS, rows=SLOTS)
    weights = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract_weights(sampler.model))]
    return lower_sampler(sampler, POSITIONS, 512, truncated)["decode"].compile(), weights


def computations(text):
    """{name: instruction lines} of an HLO module."""
    found, name = {}, None
    for line in text.splitlines():
        head = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if head:
            name = head[1]
            found[name] = []
        elif name is not None:
            found[name].append(line.strip())
    return found


def loop_bodies(text):
    """Instructions of the while loops of a module, fusions as one instruction each."""
    parts = computations(text)
    lines = [line for name in re.findall(r" while\(.*?body=%?([\w.\-]+)", text) for line in parts[name]]
    assert lines
    return lines


def size_of(line):
    """Bytes of the output array of an instruction; 0 for a tuple."""
    array = re.match(r"(?:ROOT )?%?[\w.\-]+ = (\w+)\[([\d,]*)\]", line)
    return math.prod(map(int, filter(None, array[2].split(",")))) * BYTES[array[1]] if array else 0


def test_the_loop_creates_no_array_of_cache_or_weight_size(program):
    """Such arrays are only passed on, except for the scatter that writes a cache in place."""
    compiled, weights = program
    cache = 4 * 128 * SLOTS * POSITIONS * 2  # keys of one layer
    sizes = {cache} | {size for size in weights if size >= LEAST}
    assert len(sizes) == 4  # cache, attention's square matrices, the mlp's, the vocabulary's
    large = [line for line in loop_bodies(compiled.as_text()) if size_of(line) in sizes]
    assert len(large) > 28 * 4
    created = [line for line in large if not re.search(r"\} (get-tuple-element|bitcast)\(", line)]
    assert [line[:160] for line in created if size_of(line) != cache or "scatter" not in line.split(" = ")[0]] == []
    assert len(created) == 28 * 2


def test_decoding_has_no_collectives(program):
    assert not [name for name in COLLECTIVES if re.search(rf" {name}(-start)?\(", program[0].as_text())]


def test_the_cache_is_written_in_place_with_few_temporaries(program):
    memory = program[0].memory_analysis()
    cache = 28 * 2 * 4 * 128 * SLOTS * POSITIONS * 2
    print(
        f"\narguments {memory.argument_size_in_bytes / MIB:.0f} MiB, temporaries "
        f"{memory.temp_size_in_bytes / MIB:.0f} MiB, in place {memory.alias_size_in_bytes / MIB:.0f} MiB per device"
    )
    assert memory.temp_size_in_bytes < 256 * MIB
    assert memory.alias_size_in_bytes >= cache


def job(name="stage2", size="7b", devices="4xA100-80GB", **fields):
    """A shipped stage on devices of one host."""
    spec = run_spec(plain(importlib.import_module(f"configs.{name}").get_config(size)))
    return Job(spec.changed(**fields), preset(spec.model.path), 400, read_devices(devices))


def compiled_plan(planned):
    devices = compile_only_devices("A100-80GB", planned.devices.count)
    return plan_compiled(planned, build_components(planned.spec, planned.config, planned.longest, devices))


@pytest.fixture(scope="module")
def stage2():
    return compiled_plan(job())


def bytes_sent(programs, name):
    """Bytes that a device sends in one run of the program, by kind."""
    found = Counter()
    for collective in programs[name]:
        found[collective.kind] += collective.bytes_sent
    return found


def test_stage_2_at_7b_fits_four_a100s_with_72_gib_in_every_phase(stage2):
    print("\n" + ", ".join(f"{phase.name} {phase.bytes / GIB:.1f} GiB" for phase in stage2.phases))
    print("compiled in", ", ".join(f"{name} {seconds:.0f} s" for name, seconds in stage2.compile_seconds.items()))
    assert stage2.source == "compiler" and stage2.fits
    assert max(phase.bytes for phase in stage2.phases) <= 72 * GIB


@pytest.mark.parametrize(
    "planned",
    [
        job(),
        job("stage3", "1.5b", "1xA100-80GB"),
        job(mesh=MeshSpec(data=1, fsdp=2, tensor=2), layout={"micro_tokens": 32_768}),
    ],
    ids=["7b on four", "1.5b on one", "7b on two times two"],
)
def test_a_plan_from_shapes_is_within_ten_percent_of_the_compiled_one(planned, stage2):
    compiled = stage2 if planned == stage2.job else compiled_plan(planned)
    for phase, exact in zip(plan_shapes(planned).phases, compiled.phases, strict=True):
        print(f"{phase.name}: shapes {phase.bytes / GIB:.2f}, compiler {exact.bytes / GIB:.2f} GiB")
        assert phase.name == exact.name and phase.bytes == pytest.approx(exact.bytes, rel=0.1)


def test_the_update_sends_weights_and_gradients_as_expected(stage2):
    """FSDP: weights are gathered for each layer, gradients scattered; activations are not sent."""
    expected = expected_collectives(stage2.job)
    for name in ("accumulate", "reference"):
        real, planned = bytes_sent(stage2.collectives, name), bytes_sent(expected, name)
        for kind in ("all-gather", "reduce-scatter"):
            assert real[kind] == pytest.approx(planned[kind], rel=0.02)
        assert real["all-reduce"] + real["all-to-all"] < 0.01 * real["all-gather"]


def test_the_largest_micro_batch_fits_when_it_is_compiled(stage2):
    """On devices of 55 GiB, where it is smaller than the step."""
    small = dataclasses.replace(stage2.job, devices=dataclasses.replace(stage2.job.devices, memory=55 * GIB))
    sizes = largest_sizes(dataclasses.replace(stage2, job=small))
    update = compiled_plan(small.changed(layout={"micro_tokens": sizes["layout.micro_tokens"]})).phases[-1]
    print(f"\n{sizes}: update {update.bytes / GIB:.2f} GiB")
    assert 0.9 * 55 * GIB < update.bytes <= 55.5 * GIB


@pytest.mark.parametrize("devices", ["1xA100-80GB", "4xA100-80GB"])
def test_adapters_are_merged_layer_by_layer(devices):
    """A product of all layers in float32 would be 7 GiB on one device, 1.8 GiB on each of four."""
    planned = job(model={"lora": LoRASpec(16, 32.0)}, devices=devices)
    components = build_components(
        planned.spec, planned.config, planned.longest, compile_only_devices("A100-80GB", planned.devices.count)
    )
    state = components.abstract_state()
    real = components.merge_adapters.lower(state.base, state.params).compile().memory_analysis().temp_size_in_bytes
    print(f"\nmerge: {real / MIB:.1f} MiB")
    assert real <= merge_temporaries(state.base) < 0.3 * GIB


@pytest.mark.parametrize(
    ("kind", "size", "devices"),
    [
        ("adamw", "1.5b", 1),
        ("adafactor", "1.5b", 1),
        ("sgd", "1.5b", 1),
        ("muon", "1.5b", 1),
        ("muon", "1.5b", 2),
        ("muon", "7b", 4),
        ("adafactor", "7b", 4),
    ],
)
def test_the_temporaries_of_an_optimizer_are_close_to_the_compilers(kind, size, devices):
    """Within ten percent of the arguments: Muon's temporaries are several times those of the others."""
    planned = job(size=size, devices=f"{devices}xA100-80GB")
    planned = planned.changed(optimizer={"kind": kind})
    components = build_components(
        planned.spec, planned.config, planned.longest, compile_only_devices("A100-80GB", devices)
    )
    state = components.abstract_state()
    program = lower_update(components.update, state, devices, 128)["finish"]
    memory = program.compile().memory_analysis()
    estimate = finish_temporaries(state.params, kind)
    print(f"\n{kind}: shapes {estimate / GIB:.2f}, compiler {memory.temp_size_in_bytes / GIB:.2f} GiB")
    assert estimate == pytest.approx(memory.temp_size_in_bytes, abs=0.1 * memory.argument_size_in_bytes)

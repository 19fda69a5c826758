"""The decode loop as XLA compiles it for A100s: nothing of cache or weight size is copied, no device waits.

    make test-gpu-compile

Not part of `make test`: it needs the extra `cuda12` (about 2 GB), though no GPU.
"""

import math
import re

import jax
import jax.numpy as jnp
import pytest

from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.running.accelerators import compile_only_devices
from jaxrl.sampling import Sampler
from jaxrl.sampling.lowered import lower
from jaxrl.sampling.sampler import abstract_weights
from models.config import preset

MIB = 2**20
SLOTS, POSITIONS = 128, 2048
LEAST = 16 * MIB  # the keys' and values' matrices and the norms are smaller
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@pytest.fixture(scope="module", params=[1, 4], ids=["one A100", "four A100s"])
def program(request):
    """The compiled decode program, and the bytes of each weight."""
    config = preset("7b-1m")
    mesh = make_mesh(MeshSpec(data=1, fsdp=-1), compile_only_devices("A100-80GB", request.param))
    sampler = Sampler(config, mesh, dtype=jnp.bfloat16, longest=POSITIONS, rows=SLOTS)
    weights = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract_weights(sampler.model))]
    return lower(sampler, POSITIONS, 512, truncated=True)["decode"].compile(), weights


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
    """Bytes of the array that an instruction gives; 0 for a tuple."""
    array = re.match(r"(?:ROOT )?%?[\w.\-]+ = (\w+)\[([\d,]*)\]", line)
    return math.prod(map(int, filter(None, array[2].split(",")))) * BYTES[array[1]] if array else 0


def test_nothing_of_cache_or_weight_size_is_made_in_the_loop(program):
    """Such arrays are only handed on; the one thing that gives a cache is the scatter that writes it in place."""
    compiled, weights = program
    cache = 4 * 128 * SLOTS * POSITIONS * 2  # one side of one layer
    sizes = {cache} | {size for size in weights if size >= LEAST}
    assert len(sizes) == 4  # cache, attention's square matrices, the mlp's, the vocabulary's
    held = [line for line in loop_bodies(compiled.as_text()) if size_of(line) in sizes]
    assert len(held) > 28 * 4
    made = [line for line in held if not re.search(r"\} (get-tuple-element|bitcast)\(", line)]
    assert [line[:160] for line in made if size_of(line) != cache or "scatter" not in line.split(" = ")[0]] == []
    assert len(made) == 28 * 2


def test_devices_do_not_talk(program):
    assert not [name for name in COLLECTIVES if re.search(rf" {name}(-start)?\(", program[0].as_text())]


def test_the_cache_is_written_in_place_with_little_besides(program):
    memory = program[0].memory_analysis()
    cache = 28 * 2 * 4 * 128 * SLOTS * POSITIONS * 2
    print(f"\narguments {memory.argument_size_in_bytes / MIB:.0f} MiB, temporaries "
          f"{memory.temp_size_in_bytes / MIB:.0f} MiB, in place {memory.alias_size_in_bytes / MIB:.0f} MiB a device")
    assert memory.temp_size_in_bytes < 256 * MIB
    assert memory.alias_size_in_bytes >= cache

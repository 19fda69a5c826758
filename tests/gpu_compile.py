"""The decode loop as XLA compiles it for A100s: nothing of cache or weight size is copied, no device waits for another.

    make test-gpu-compile

Not part of `make test`: it needs the extra `cuda12` (about 2 GB), though no GPU.
"""

import re

import jax.numpy as jnp
import pytest

from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.running.accelerators import compile_only_devices
from jaxrl.sampling import Sampler
from jaxrl.sampling.lowered import lower
from models.config import preset

MIB = 2**20
SLOTS, POSITIONS = 128, 2048
LEAST = 16 * MIB  # smaller than any matrix of the model and any layer's cache
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@pytest.fixture(scope="module", params=[1, 4], ids=["one A100", "four A100s"])
def program(request):
    """The compiled decode program and its configuration."""
    config = preset("7b-1m")
    mesh = make_mesh(MeshSpec(data=1, fsdp=-1), compile_only_devices("A100-80GB", request.param))
    sampler = Sampler(config, mesh, dtype=jnp.bfloat16, longest=POSITIONS, rows=SLOTS)
    return lower(sampler, POSITIONS, 512, truncated=True)["decode"].compile()


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


def in_the_loop(text):
    """Instructions that run each turn of a while loop, inside fusions and called computations too."""
    parts = computations(text)
    waiting = re.findall(r" while\(.*?body=%?([\w.\-]+)", text)
    seen, lines = set(), []
    while waiting:
        name = waiting.pop()
        if name in seen or name not in parts:
            continue
        seen.add(name)
        lines += parts[name]
        waiting += re.findall(r"(?:calls|to_apply|body)=%?([\w.\-]+)", "\n".join(parts[name]))
    assert lines
    return lines


def size_of(line):
    """Bytes of the first array that an instruction gives."""
    kind, shape = re.search(r"= \(?(\w+)\[([\d,]*)\]", line).groups()
    size = BYTES[kind]
    for length in filter(None, shape.split(",")):
        size *= int(length)
    return size


def test_nothing_large_is_copied_in_the_loop(program):
    copying = [line for line in in_the_loop(program.as_text()) if re.search(r"\} (copy|transpose|copy-start)\(", line)]
    assert [line[:160] for line in copying if size_of(line) >= LEAST] == []


def test_devices_do_not_talk(program):
    assert not [name for name in COLLECTIVES if re.search(rf" {name}(-start)?\(", program.as_text())]


def test_the_cache_is_written_in_place_with_little_besides(program):
    memory = program.memory_analysis()
    cache = 28 * 2 * 4 * 128 * SLOTS * POSITIONS * 2
    print(f"\narguments {memory.argument_size_in_bytes / MIB:.0f} MiB, temporaries "
          f"{memory.temp_size_in_bytes / MIB:.0f} MiB, in place {memory.alias_size_in_bytes / MIB:.0f} MiB a device")
    assert memory.temp_size_in_bytes < 256 * MIB
    assert memory.alias_size_in_bytes >= cache

"""Collectives of a compiled program, parsed from its HLO text."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
_BITS = {
    "pred": 8,
    "s4": 4,
    "u4": 4,
    "s8": 8,
    "u8": 8,
    "bf16": 16,
    "f16": 16,
    "s16": 16,
    "u16": 16,
    "s32": 32,
    "u32": 32,
    "f32": 32,
    "s64": 64,
    "u64": 64,
    "f64": 64,
}
_IOTA = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
_GLOBAL_SIZE = {  # bytes of the global array of a group, as a multiple of the bytes of the instruction's type
    "all-gather": lambda n, start: n / (n + 1) if start else 1,
    "reduce-scatter": lambda n, start: n / (n + 1) if start else n,
    "all-reduce": lambda n, start: 1,
    "all-to-all": lambda n, start: 0.5 if start else 1,
    "collective-permute": lambda n, start: 0.5 if start else 1,
}


class Collective(NamedTuple):
    """One instruction: `size` bytes of the global array (gathered, or before the reduction) over the devices of
    `group`, executed `times` in one execution of the program."""

    kind: str
    size: int
    group: tuple[int, ...]
    times: int

    @property
    def bytes_sent(self) -> float:
        """Bytes sent by each device in one execution of the program, with ring algorithms (Patarasuk and Yuan 2009)."""
        count = len(self.group)
        fraction = {"all-reduce": 2 * (count - 1) / count, "collective-permute": 1}.get(self.kind, (count - 1) / count)
        return fraction * self.size * self.times


def read_collectives(text: str) -> list[Collective]:
    """The collectives of a compiled program (`compiled.as_text()`); `times` is multiplied by the trip counts of loops.

    A loop without a known trip count, such as that of decoding, counts as one iteration. Raises ValueError for an
    unknown notation of replica groups.
    """
    computations, entry = _computations(text)
    collectives = []
    for name, times in _calls(computations, entry, 1):
        for line in computations[name]:
            match = re.search(rf" = (.*?) ({'|'.join(KINDS)})(-start)?\(", line)
            if not match:
                continue
            kind, group = match[2], _group(line)
            if len(group) > 1:
                size = _bytes(match[1]) * _GLOBAL_SIZE[kind](len(group), bool(match[3]))
                collectives.append(Collective(kind, round(size), group, times))
    return collectives


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """{name: instructions} of all computations, and the name of the entry computation."""
    computations, name, entry = {}, None, ""
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if head:
            name = head[2]
            computations[name] = []
            entry = name if head[1] else entry
        elif name is not None:
            computations[name].append(line)
    return computations, entry


def _calls(computations: dict[str, list[str]], name: str, times: int) -> Iterator[tuple[str, int]]:
    """Every computation that is called, with its number of executions."""
    yield name, times
    for line in computations[name]:
        trip_count = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
        for kind, called in re.findall(r"(body|calls|true_computation|false_computation)=%?([\w.\-]+)", line):
            yield from _calls(
                computations, called, times * int(trip_count[1]) if kind == "body" and trip_count else times
            )


def _bytes(types: str) -> int:
    """Bytes of all arrays in a type, such as `(bf16[4,8]{1,0}, f32[])`."""
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", types)
    return sum(math.prod(map(int, filter(None, sizes.split(",")))) * _BITS[kind] for kind, sizes in arrays) // 8


def _group(line: str) -> tuple[int, ...]:
    """The first replica group of an instruction; all its groups have the same size."""
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    if listed:
        return tuple(_numbers(listed[1]))
    counted = re.search(r"replica_groups=\[(\d+),(\d+)\]<=" + _IOTA, line)
    if counted:
        return tuple(_ids(counted[3], counted[4]).reshape(int(counted[1]), int(counted[2]))[0].tolist())
    meshed = re.search(rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\({_IOTA}\))? \{{((?:'\w+',? ?)+)\}}", line)
    if meshed:
        axes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", meshed[1])}
        named = re.findall(r"'(\w+)'", meshed[4])
        ids = _ids(meshed[2] or str(math.prod(axes.values())), meshed[3]).reshape([*axes.values()])
        return tuple(ids[tuple(slice(None) if axis in named else 0 for axis in axes)].reshape(-1).tolist())
    pairs = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)+)\}", line)
    if pairs:
        return tuple(sorted({int(device) for device in re.findall(r"\d+", pairs[1])}))
    raise ValueError(
        f"expected a known notation of replica groups, got {line.strip()[:200]}; use --shapes to estimate from shapes "
        "instead of with the compiler."
    )


def _ids(sizes: str, order: str | None) -> np.ndarray:
    """Device ids in the notation `[2,4]T(1,0)`: an iota of this shape, with transposed axes."""
    shape = _numbers(sizes)
    return np.arange(math.prod(shape)).reshape(shape).transpose(_numbers(order) if order else range(len(shape)))


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]

"""What devices send each other in a compiled program, read from its text."""

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
_ORDER = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
_SHARES = {  # bytes of the whole array that a group works on, as a multiple of those in the instruction's type
    "all-gather": lambda n, start: n / (n + 1) if start else 1,
    "reduce-scatter": lambda n, start: n / (n + 1) if start else n,
    "all-reduce": lambda n, start: 1,
    "all-to-all": lambda n, start: 0.5 if start else 1,
    "collective-permute": lambda n, start: 0.5 if start else 1,
}


class Collective(NamedTuple):
    """One instruction: `size` bytes of the whole array (gathered, or before it is reduced), by the devices of `group`,
    `times` in a run of the program."""

    kind: str
    size: int
    group: tuple[int, ...]
    times: int

    @property
    def sent(self) -> float:
        """Bytes that each device sends in a run, where the group works as a ring (Patarasuk and Yuan 2009)."""
        count = len(self.group)
        turns = {"all-reduce": 2 * (count - 1) / count, "collective-permute": 1}.get(self.kind, (count - 1) / count)
        return turns * self.size * self.times


def read_collectives(text: str) -> list[Collective]:
    """The collectives of a compiled program (`compiled.as_text()`), those in loops as often as they turn.

    A loop whose number of turns is not known when compiling, as that of decoding, counts as one turn.
    Raises ValueError for a form of device groups that is not known.
    """
    parts, entry = _computations(text)
    found = []
    for name, times in _calls(parts, entry, 1):
        for line in parts[name]:
            seen = re.search(rf" = (.*?) ({'|'.join(KINDS)})(-start)?\(", line)
            if not seen:
                continue
            kind, group = seen[2], _group(line)
            if len(group) > 1:
                size = _bytes(seen[1]) * _SHARES[kind](len(group), bool(seen[3]))
                found.append(Collective(kind, round(size), group, times))
    return found


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """{name: instructions}, and the name of the one that is run."""
    parts, name, entry = {}, None, ""
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if head:
            name = head[2]
            parts[name] = []
            entry = name if head[1] else entry
        elif name is not None:
            parts[name].append(line)
    return parts, entry


def _calls(parts: dict[str, list[str]], name: str, times: int) -> Iterator[tuple[str, int]]:
    """Every computation that is reached, and how often."""
    yield name, times
    for line in parts[name]:
        turns = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
        for kind, called in re.findall(r"(body|calls|true_computation|false_computation)=%?([\w.\-]+)", line):
            yield from _calls(parts, called, times * int(turns[1]) if kind == "body" and turns else times)


def _bytes(types: str) -> int:
    """Bytes of all arrays in a type, such as `(bf16[4,8]{1,0}, f32[])`."""
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", types)
    return sum(math.prod(map(int, filter(None, sizes.split(",")))) * _BITS[kind] for kind, sizes in arrays) // 8


def _group(line: str) -> tuple[int, ...]:
    """The first group of devices that an instruction names; all groups are of one size."""
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    if listed:
        return tuple(_numbers(listed[1]))
    counted = re.search(r"replica_groups=\[(\d+),(\d+)\]<=" + _ORDER, line)
    if counted:
        return tuple(_ids(counted[3], counted[4]).reshape(int(counted[1]), int(counted[2]))[0].tolist())
    meshed = re.search(rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\({_ORDER}\))? \{{((?:'\w+',? ?)+)\}}", line)
    if meshed:
        axes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", meshed[1])}
        named = re.findall(r"'(\w+)'", meshed[4])
        ids = _ids(meshed[2] or str(math.prod(axes.values())), meshed[3]).reshape([*axes.values()])
        return tuple(ids[tuple(slice(None) if axis in named else 0 for axis in axes)].reshape(-1).tolist())
    pairs = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)+)\}", line)
    if pairs:
        return tuple(sorted({int(device) for device in re.findall(r"\d+", pairs[1])}))
    raise ValueError(
        f"a collective with groups of devices in a form that is not known ({line.strip()[:200]}); plan "
        "without the compiler, from shapes (--shapes)."
    )


def _ids(sizes: str, order: str | None) -> np.ndarray:
    """Device numbers in the order of `[2,4]T(1,0)`: counted up in these sizes, with the axes then turned."""
    shape = _numbers(sizes)
    return np.arange(math.prod(shape)).reshape(shape).transpose(_numbers(order) if order else range(len(shape)))


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]

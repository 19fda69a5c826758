"""Where every array lives: a mesh with axes (data, fsdp, tensor), and one table of logical axes."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")

RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "vocab": ("tensor",),
    "embed": ("fsdp",),
    "mlp": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "layers": (),
    "norm": (),
}
"""Logical axis -> mesh axes. An axis whose size the mesh does not divide stays whole."""

DECODE_RULES = RULES | {"embed": ()}
"""The same while decoding: weights that are split over `fsdp` would have to be gathered at every token."""


@dataclasses.dataclass(frozen=True)
class MeshSpec:
    """Devices along each axis; one of them may be -1: all devices that are left.

    data: copies of the model, rows split. fsdp: rows and parameters split.
    tensor: heads, mlp and vocabulary split.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def axis_sizes(spec: MeshSpec, count: int) -> tuple[int, ...]:
    """Devices along each of AXES. Raises ValueError when the sizes do not multiply to `count` devices."""
    sizes = [spec.data, spec.fsdp, spec.tensor]
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ValueError(
            f"mesh sizes: expected positive numbers with at most one -1, got {dict(zip(AXES, sizes, strict=True))}"
        )
    if -1 in sizes and count % known == 0:
        sizes[sizes.index(-1)] = count // known
    if math.prod(sizes) != count:
        raise ValueError(
            f"mesh {dict(zip(AXES, sizes, strict=True))} does not cover the {count} devices at hand; "
            "make the sizes multiply to their number, or set one of them to -1"
        )
    return tuple(sizes)


def make_mesh(spec: MeshSpec, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with axes (data, fsdp, tensor) over `devices` (default: all), compiler-chosen (Auto) axis types.

    Raises ValueError when the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = axis_sizes(spec, len(devices))
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def abstract_mesh(spec: MeshSpec, count: int) -> AbstractMesh:
    """The same mesh of `count` devices that need not exist: for shapes and shardings."""
    return AbstractMesh(axis_sizes(spec, count), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def partition(
    names: tuple[str | None, ...],
    shape: tuple[int, ...],
    mesh: Mesh | AbstractMesh,
    rules: Mapping[str, tuple[str, ...]] = RULES,
) -> PartitionSpec:
    """The partition of an array by the rules; an axis that does not divide evenly is not split."""
    if len(names) != len(shape):  # a factored moment keeps its parameter's names, but not its axes
        return PartitionSpec()
    parts = []
    for name, size in zip(names, shape, strict=True):
        axes = tuple(axis for axis in rules.get(name, ()) if mesh.shape[axis] > 1)
        parts.append(axes if axes and size % math.prod(mesh.shape[axis] for axis in axes) == 0 else None)
    return PartitionSpec(*parts)


def shardings_for(abstract: Any, mesh: Mesh | AbstractMesh, rules: Mapping[str, tuple[str, ...]] = RULES) -> Any:
    """Shardings of a tree of boxed shapes (from `jax.eval_shape(model.init, ...)`); others are whole."""

    def place(leaf):
        def sharding(x):
            names = leaf.names if isinstance(leaf, nn.Partitioned) else (None,) * x.ndim
            return NamedSharding(mesh, partition(names, x.shape, mesh, rules))

        # A box may hold nothing: the hole of a masked optimizer.
        return jax.tree.map(sharding, nn.meta.unbox(leaf))

    return jax.tree.map(place, abstract, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned))


def placer(mesh: Mesh | AbstractMesh) -> Callable[[jax.Array, tuple[str | None, ...]], jax.Array]:
    """`place(array, names)`: the array, split over the mesh by the rules."""

    def place(x, names):
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, partition(names, x.shape, mesh)))

    return place


def row_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Rows of a batch over the axes that hold different rows."""
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def row_shards(mesh: Mesh | AbstractMesh) -> int:
    """Number of parts the rows of a batch are split into: every micro-batch has a multiple of it."""
    return math.prod(mesh.shape[axis] for axis in RULES["batch"])

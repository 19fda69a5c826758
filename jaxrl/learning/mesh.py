"""The device mesh, with axes (data, fsdp, tensor), and one table that maps logical axes to mesh axes."""

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
"""Logical axis -> mesh axes. An array axis that the mesh axes do not divide evenly is not sharded."""

DECODE_RULES = RULES | {"embed": ()}
"""`RULES` for decoding: weights sharded over `fsdp` would have to be gathered for every token."""


@dataclasses.dataclass(frozen=True)
class MeshSpec:
    """Devices along each axis. One of them may be -1: all remaining devices.

    data: replicas of the model, rows are sharded. fsdp: rows and parameters are sharded.
    tensor: heads, mlp and vocabulary are sharded.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def axis_sizes(spec: MeshSpec, count: int) -> tuple[int, ...]:
    """Devices along each of AXES. Raises ValueError unless the sizes multiply to `count` devices."""
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
            f"mesh {dict(zip(AXES, sizes, strict=True))} does not cover the {count} available devices; "
            "make the sizes multiply to their number, or set one of them to -1"
        )
    return tuple(sizes)


def make_mesh(spec: MeshSpec, devices: Sequence[jax.Device] | None = None) -> Mesh:  # pyright: ignore[reportInvalidTypeForm]
    """A mesh with axes (data, fsdp, tensor) of type Auto over `devices` (default: all).

    Raises ValueError unless the sizes multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = axis_sizes(spec, len(devices))
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def abstract_mesh(spec: MeshSpec, count: int) -> AbstractMesh:
    """The same mesh of `count` devices that need not exist, for shapes and shardings."""
    return AbstractMesh(axis_sizes(spec, count), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def partition(
    names: tuple[str | None, ...],
    shape: tuple[int, ...],
    mesh: Mesh | AbstractMesh,
    rules: Mapping[str, tuple[str, ...]] = RULES,
) -> PartitionSpec:
    """The PartitionSpec of an array with these logical axis names. Axes that do not divide evenly are not sharded."""
    if len(names) != len(shape):  # a factored moment has the names of its parameter, but not its axes
        return PartitionSpec()
    parts = []
    for name, size in zip(names, shape, strict=True):
        axes = tuple(axis for axis in (rules.get(name, ()) if name else ()) if mesh.shape[axis] > 1)
        parts.append(axes if axes and size % math.prod(mesh.shape[axis] for axis in axes) == 0 else None)
    return PartitionSpec(*parts)


def shardings_for(abstract: Any, mesh: Mesh | AbstractMesh, rules: Mapping[str, tuple[str, ...]] = RULES) -> Any:
    """Shardings of a tree of boxed shapes (from `jax.eval_shape(model.init, ...)`). Unboxed leaves are replicated."""

    def shardings(leaf):
        def sharding(x):
            names = leaf.names if isinstance(leaf, nn.Partitioned) else (None,) * x.ndim
            return NamedSharding(mesh, partition(names, x.shape, mesh, rules))

        # A box may hold an empty tree, such as optax.MaskedNode.
        return jax.tree.map(sharding, nn.meta.unbox(leaf))

    return jax.tree.map(shardings, abstract, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned))


def sharding_constraint(mesh: Mesh | AbstractMesh) -> Callable[[jax.Array, tuple[str | None, ...]], jax.Array]:
    """`constrain(array, logical_axis_names)`: the array with the sharding of `RULES` on this mesh."""

    def constrain(x, names):
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, partition(names, x.shape, mesh)))

    return constrain


def row_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The sharding of a batch: rows over the axes data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The sharding of an array with a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def row_shards(mesh: Mesh | AbstractMesh) -> int:
    """Number of shards of the rows of a batch. The rows of a micro-batch are a multiple of it."""
    return math.prod(mesh.shape[axis] for axis in RULES["batch"])

"""Shardings follow one table; axes that do not divide are not sharded; a mesh must cover the devices."""

import jax
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxrl.learning.mesh import MeshSpec, make_mesh, partition, row_shards

pytestmark = pytest.mark.check


def test_minus_one_takes_the_remaining_devices():
    mesh = make_mesh(MeshSpec(data=-1, fsdp=2))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 1} and row_shards(mesh) == 4
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_partition_follows_the_rules():
    mesh = make_mesh(MeshSpec(data=1, fsdp=2, tensor=2))
    assert partition(("layers", "embed", "mlp"), (3, 8, 6), mesh) == PartitionSpec(None, ("fsdp",), ("tensor",))
    assert partition(("vocab", "embed"), (31, 8), mesh) == PartitionSpec(None, ("fsdp",))
    assert partition(("norm",), (8,), mesh) == PartitionSpec(None)


@pytest.mark.parametrize("spec", [MeshSpec(3), MeshSpec(-1, 3), MeshSpec(2, 1, 1), MeshSpec(-1, -1), MeshSpec(0)])
def test_a_mesh_that_does_not_fit_is_refused(spec):
    assert len(jax.devices()) == 4
    with pytest.raises(ValueError, match=r"mesh .* expected|does not cover the 4 available devices"):
        make_mesh(spec)

"""The fingerprint depends on values, names and shapes, and on nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxrl.checkpointing.fingerprint import fingerprint
from jaxrl.learning.mesh import MeshSpec, make_mesh

TREE = {"layers": {"w": jnp.arange(32.0).reshape(8, 4)}, "norm": jnp.ones(4), "bias": jnp.zeros(4)}


def changed(name, change):
    return TREE | {name: change(TREE[name])}


@pytest.mark.parametrize(
    "other",
    [
        changed("norm", lambda leaf: leaf.at[2].set(np.nextafter(np.float32(1), np.float32(2)))),
        changed("norm", lambda leaf: -leaf),
        changed("bias", lambda leaf: -leaf),  # the sign of zero is a bit too
        changed("norm", lambda leaf: leaf.reshape(2, 2)),
        TREE | {"layers": {"w": TREE["layers"]["w"][::-1]}},
        TREE | {"norm": TREE["bias"], "bias": TREE["norm"]},
        TREE | {"layers": {"v": TREE["layers"]["w"]}},
        {name: leaf for name, leaf in TREE.items() if name != "bias"},
    ],
    ids=["last bit", "signs", "zeros", "shape", "order", "swapped", "name", "missing"],
)
def test_different_trees_have_different_fingerprints(other):
    assert fingerprint(other) != fingerprint(TREE)


def test_sharding_dtype_and_order_do_not_matter():
    sharding = NamedSharding(make_mesh(MeshSpec(data=1, fsdp=4)), PartitionSpec("fsdp"))
    assert fingerprint(jax.device_put(TREE, sharding)) == fingerprint(TREE)
    assert fingerprint(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), TREE)) == fingerprint(TREE)
    assert fingerprint(dict(reversed(TREE.items()))) == fingerprint(TREE)


def test_random_trees_have_different_fingerprints():
    """The value is stable as well, because manifests store it."""
    random = np.random.default_rng(0)
    found = {fingerprint({"w": jnp.asarray(random.integers(0, 2, 8), jnp.float32)}) for _ in range(2000)}
    assert len(found) == 256
    assert fingerprint(TREE) == "b6bce973aa8123aa8fbcb08a04afd48b"

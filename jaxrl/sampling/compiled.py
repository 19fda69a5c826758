"""The compiled programs of a sampler: every row shard works on its own rows, with no collective between them."""

import collections
import functools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxrl.sampling import decode as programs
from jaxrl.sampling.types import Slots
from models.cache import KVCache
from models.params import Params, unstack
from models.qwen2 import Qwen2


class Programs:
    """The programs of `jaxrl.sampling.decode`, jitted and compiled once per shape; `traces` counts the compilations.

    `insert` and `decode` have two programs each, by whether a row of the request uses top-k, top-p or min-p.

    weights: shardings of the decode weights. Mesh axes that no weight uses shard the rows. So a row shard is a single
    device if the weights are replicated. If they are sharded, it is a group of devices that hold one copy together, and
    the compiler partitions the work inside the group. slots_per_shard: slots of a batch on one row shard. chunk: most
    decode steps of one call of `decode`.
    """

    def __init__(self, model: Qwen2, mesh: Mesh, weights: Any, slots_per_shard: int, chunk: int):
        self.traces: collections.Counter[str] = collections.Counter()
        self.model, self.mesh, self.slots_per_shard = model, mesh, slots_per_shard
        self.layout = model.kernels.cache
        self.row_axes = row_axes(mesh, weights)
        self.shards = math.prod(mesh.shape[axis] for axis in self.row_axes)
        self.split_axes = tuple(axis for axis in mesh.axis_names if axis not in self.row_axes)
        # Keys and values are sharded by KV heads, as the work is, where their number is divisible.
        fits = model.config.num_key_value_heads % (mesh.size // self.shards) == 0
        self.heads = P(None, self.split_axes if fits else None)
        self.rows = NamedSharding(mesh, P(self.row_axes))
        self.cache = NamedSharding(mesh, P(self.row_axes, *self.heads[1:]))
        self.weights, self.replicated = weights, NamedSharding(mesh, P())
        rows, same = P(self.row_axes), P()
        self.prefill = self._jit("prefill", partial(programs.prefill, model), (same, rows, rows))
        self.insert = {
            truncated: self._jit(
                "insert",
                partial(programs.insert, model, truncated=truncated),
                (rows,) * 8 + (same, same),
                donate=(0, 1),
            )
            for truncated in (False, True)
        }
        self.decode = {
            truncated: self._jit(
                "decode",
                partial(programs.decode, model, chunk=chunk, truncated=truncated),
                (same, rows, rows, same, same),
                donate=(1, 2),
            )
            for truncated in (False, True)
        }
        self.stop = self._jit("stop", programs.stop, (rows, rows), donate=(0,))
        self.move_rows = self._jit("move_rows", programs.move_rows, (rows,) * 6, donate=(0, 1))
        self._gather_rows = self._jit("gather_rows", programs.gather_rows, (rows, rows))
        self._sized: dict[tuple[str, int], Callable] = {}

        def unroll(params):
            params = unstack(params, model.config.num_hidden_layers)
            return model.kernels.store_params(jax.tree.map(lambda x: x.astype(model.dtype), params))

        self.unroll, self.unroll_elsewhere = jax.jit(unroll, out_shardings=weights), jax.jit(unroll)

        @functools.cache
        def unroll_global(mesh):
            """For parameters of several processes: each process gets a full copy, sharded as `weights` over `mesh`."""
            shardings = jax.tree.map(lambda sharding: NamedSharding(mesh, sharding.spec), weights)
            return jax.jit(unroll, out_shardings=shardings)

        self.unroll_global = unroll_global

    def decode_weights(self, params: Params) -> Params:
        """Unrolled decode weights from scanned parameters, which may come from other devices."""
        first = jax.tree.leaves(params)[0]
        if not isinstance(first, jax.Array) or first.sharding.device_set == set(self.mesh.devices.flat):
            return self.unroll(params)
        if first.is_fully_addressable:
            return jax.device_put(self.unroll_elsewhere(params), self.weights)
        return jax.tree.map(_local_array, self.unroll_global(first.sharding.mesh)(params), self.weights)  # pyright: ignore[reportAttributeAccessIssue]

    def _jit(self, name: str, function: Callable, specs: tuple, donate: tuple[int, ...] = ()) -> Callable:
        def counted(*args):
            self.traces[name] += 1  # runs only while JAX traces the function
            return jax.tree.map(self._constrain, function(*args), is_leaf=lambda x: isinstance(x, KVCache))

        counted.__name__ = name  # for logs and traces of the compiler
        # check_vma=False: it would check that replicated outputs are equal on all devices, and no output is replicated.
        mapped = jax.shard_map(
            counted,
            mesh=self.mesh,
            in_specs=specs,
            out_specs=P(self.row_axes),
            axis_names=set(self.row_axes),
            check_vma=False,
        )
        return jax.jit(mapped, donate_argnums=donate)

    def _constrain(self, output: Any) -> Any:
        """A cache leaves a program with the sharding it came with, so that it can be written in place."""
        if not isinstance(output, KVCache) or not self.split_axes:
            return output
        return jax.lax.with_sharding_constraint(output, self.heads)

    def grow(self, cache: KVCache, size: int) -> KVCache:
        """The cache with room for `size` positions; the old one is freed."""
        return self._resize("grow", self.layout.grow, cache, size)

    def shrink(self, cache: KVCache, size: int) -> KVCache:
        """The first `size` positions of the cache; the old one is freed."""
        return self._resize("shrink", self.layout.shrink, cache, size)

    def _resize(self, name: str, function: Callable[..., KVCache], cache: KVCache, size: int) -> KVCache:
        if (name, size) not in self._sized:
            self._sized[name, size] = self._jit(name, partial(function, positions=size), (P(self.row_axes),))
        return _by_layers(cache, self._sized[name, size])

    def gather_rows(self, cache: KVCache, slots: Slots, source: jax.Array) -> tuple[KVCache, Slots]:
        """Slots source[i] of every row shard and their cache, in this order; the old cache is freed."""
        return _by_layers(cache, lambda layer: self._gather_rows(layer, source)), self._gather_rows(slots, source)

    def empty_cache(self, size: int) -> KVCache:
        """A cache of `size` positions for the rows of one batch on every row shard."""
        if ("empty", size) not in self._sized:
            total = self.slots_per_shard * self.shards
            make = partial(self.layout.init, self.model.config, total, size, self.model.dtype)
            self._sized["empty", size] = jax.jit(make, out_shardings=self.cache)
        return self._sized["empty", size]()

    def put(self, tree):
        """Host arrays [shards * n, ...] to the devices, sharded by rows."""
        return jax.device_put(tree, self.rows)


def row_axes(mesh: Mesh, weights: Any) -> tuple[str, ...]:
    """The mesh axes that shard rows: those that no sharding of the weights uses."""
    used = {axis for leaf in jax.tree.leaves(weights) for axis in _axes(leaf.spec) if mesh.shape[axis] > 1}
    return tuple(axis for axis in mesh.axis_names if axis not in used)


def _by_layers(cache: KVCache, program: Callable[[KVCache], KVCache]) -> KVCache:
    """Apply `program` to one layer at a time and free the old layer at once, so that there are never two caches."""
    keys, values = [], []
    for layer in zip(*cache, strict=True):
        changed = program(KVCache(*((side,) for side in layer)))
        keys, values = [*keys, *changed.keys], [*values, *changed.values]
        for side in layer:
            side.delete()
    return KVCache(tuple(keys), tuple(values))


def _local_array(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
    """The local shards of an array of several processes as an array of this process, without a copy."""
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, [x.data for x in leaf.addressable_shards])


def _axes(spec: P) -> list[str]:
    """The mesh axes that a partition uses."""
    return [axis for part in spec if part for axis in ((part,) if isinstance(part, str) else part)]

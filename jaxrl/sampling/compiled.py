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

from jaxrl.sampling import decode as step
from jaxrl.sampling.types import Slots
from models.cache import BLOCK, KVCache, init_cache
from models.cpu import transpose_kernels
from models.params import Params, unstack
from models.qwen2 import Qwen2


class Programs:
    """One jitted function per program, compiled once per cache length; `traces` counts compilations.

    weights: shardings of the decode weights; mesh axes that none of them uses split the rows. A row shard is a device
    where weights are whole, and a group of devices that hold one copy together where they are split; the compiler
    then divides the work inside the group.
    """

    def __init__(self, model: Qwen2, mesh: Mesh, weights: Any, slots_per_shard: int, chunk: int):
        self.traces: collections.Counter[str] = collections.Counter()
        self.model, self.mesh, self.slots_per_shard = model, mesh, slots_per_shard
        self.row_axes = row_axes(mesh, weights)
        self.shards = math.prod(mesh.shape[axis] for axis in self.row_axes)
        self.split_axes = tuple(axis for axis in mesh.axis_names if axis not in self.row_axes)
        # Keys and values lie where their heads are computed, if the heads can be divided.
        fits = model.config.num_key_value_heads % (mesh.size // self.shards) == 0
        self.heads = P(None, self.split_axes if fits else None)
        self.rows = NamedSharding(mesh, P(self.row_axes))
        self.cache = NamedSharding(mesh, P(self.row_axes, *self.heads[1:]))
        self.weights, self.whole = weights, NamedSharding(mesh, P())
        rows, whole = P(self.row_axes), P()
        layers = model.config.num_hidden_layers
        self.prefill = self._jit("prefill", partial(step.prefill, model), (whole, rows, rows))
        self.seat = {
            truncated: self._jit(
                "seat", partial(step.seat, truncated=truncated), (rows,) * 8 + (whole, whole), donate=(0, 1)
            )
            for truncated in (False, True)
        }
        self.decode = {
            truncated: self._jit(
                "decode",
                partial(step.decode, model, chunk=chunk, truncated=truncated),
                (whole, rows, rows, whole, whole),
                donate=(1, 2),
            )
            for truncated in (False, True)
        }
        self.retire = self._jit("retire", step.retire, (rows, rows), donate=(0,))
        self.move = self._jit("move", step.move, (rows,) * 6, donate=(0, 1))
        self._keep = self._jit("keep", step.keep, (rows, rows))
        self._sized: dict[tuple[str, int], Callable] = {}

        def unroll(params):
            params = jax.tree.map(lambda x: x.astype(model.dtype), unstack(params, layers))
            return transpose_kernels(params) if model.row_unit else params

        self.unroll, self.unroll_elsewhere = jax.jit(unroll, out_shardings=weights), jax.jit(unroll)

        @functools.cache
        def unroll_everywhere(mesh):
            """For weights of several processes: each has all on its devices, as this mesh of its own splits them."""
            return jax.jit(unroll, out_shardings=jax.tree.map(lambda place: NamedSharding(mesh, place.spec), weights))

        self.unroll_everywhere = unroll_everywhere

    def decode_weights(self, params: Params) -> Params:
        """Scanned parameters unrolled, where the decode weights lie; they may come from other devices."""
        first = jax.tree.leaves(params)[0]
        if not isinstance(first, jax.Array) or first.sharding.device_set == set(self.mesh.devices.flat):
            return self.unroll(params)
        if first.is_fully_addressable:
            return jax.device_put(self.unroll_elsewhere(params), self.weights)
        return jax.tree.map(_held_here, self.unroll_everywhere(first.sharding.mesh)(params), self.weights)

    def _jit(self, name: str, function: Callable, specs: tuple, donate: tuple[int, ...] = ()) -> Callable:
        def counted(*args):
            self.traces[name] += 1
            return jax.tree.map(self._place, function(*args), is_leaf=lambda x: isinstance(x, KVCache))

        # Every output is split by rows. Nothing here is replicated, so there is nothing to check (check_vma).
        mapped = jax.shard_map(
            counted,
            mesh=self.mesh,
            in_specs=specs,
            out_specs=P(self.row_axes),
            axis_names=set(self.row_axes),
            check_vma=False,
        )
        return jax.jit(mapped, donate_argnums=donate)

    def _place(self, output: Any) -> Any:
        """A cache that a program gives back lies as it came in, so that it can be written in place."""
        if not isinstance(output, KVCache) or not self.split_axes:
            return output
        return jax.lax.with_sharding_constraint(output, self.heads)

    def grow(self, cache: KVCache, size: int) -> KVCache:
        """The cache with room for `size` positions; the old one is given up."""
        return self._resize("grow", step.grow, cache, size)

    def shorten(self, cache: KVCache, size: int) -> KVCache:
        """The first `size` positions of the cache; the old one is given up."""
        return self._resize("shorten", step.shorten, cache, size)

    def _resize(self, name: str, function: Callable[..., KVCache], cache: KVCache, size: int) -> KVCache:
        program = self._jit(name, partial(function, blocks=size // BLOCK), (P(self.row_axes),))
        return _by_layers(cache, self._sized.setdefault((name, size), program))

    def keep(self, cache: KVCache, slots: Slots, source: jax.Array) -> tuple[KVCache, Slots]:
        """Slots source[i] of every row shard and their cache, in this order; the old cache is given up."""
        return _by_layers(cache, lambda layer: self._keep(layer, source)), self._keep(slots, source)

    def empty_cache(self, size: int) -> KVCache:
        """A cache of `size` positions for the rows of one batch on every row shard."""
        if ("empty", size) not in self._sized:
            total = self.slots_per_shard * self.shards
            make = partial(init_cache, self.model.config, total, size, self.model.dtype)
            self._sized["empty", size] = jax.jit(make, out_shardings=self.cache)
        return self._sized["empty", size]()

    def put(self, tree):
        """Host arrays [shards * n, ...] to the devices, split by rows."""
        return jax.device_put(tree, self.rows)


def row_axes(mesh: Mesh, weights: Any) -> tuple[str, ...]:
    """The mesh axes that split rows: those that none of the weights' shardings uses."""
    splitting = {axis for leaf in jax.tree.leaves(weights) for axis in _axes(leaf.spec) if mesh.shape[axis] > 1}
    return tuple(axis for axis in mesh.axis_names if axis not in splitting)


def _by_layers(cache: KVCache, program: Callable[[KVCache], KVCache]) -> KVCache:
    """`program` of each layer of a cache, whose old arrays are freed at once: the two are never held side by side."""
    keys, values = [], []
    for layer in zip(*cache, strict=True):
        changed = program(KVCache(*((side,) for side in layer)))
        keys, values = [*keys, *changed.keys], [*values, *changed.values]
        for side in layer:
            side.delete()
    return KVCache(tuple(keys), tuple(values))


def _held_here(leaf: jax.Array, place: NamedSharding) -> jax.Array:
    """The part of an array of several processes that this one holds, as an array of its own; nothing is copied."""
    return jax.make_array_from_single_device_arrays(leaf.shape, place, [x.data for x in leaf.addressable_shards])


def _axes(spec: P) -> list[str]:
    """The mesh axes that a partition uses."""
    return [axis for part in spec if part for axis in ((part,) if isinstance(part, str) else part)]

"""The compiled programs of a sampler: every device works on its own rows, with no collective between them."""

import collections
from collections.abc import Callable
from functools import partial

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxrl.sampling import step
from models.cache import BLOCK, KVCache, init_cache
from models.qwen2 import Qwen2, unstack


class Programs:
    """One jitted function per program, compiled once per cache length; `traces` counts compilations."""

    def __init__(self, model: Qwen2, mesh: Mesh, slots_per_device: int, chunk: int):
        self.traces: collections.Counter[str] = collections.Counter()
        self.model, self.mesh, self.slots_per_device = model, mesh, slots_per_device
        self.rows = NamedSharding(mesh, P(mesh.axis_names))
        self.whole = NamedSharding(mesh, P())
        rows, whole = P(mesh.axis_names), P()
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
        self._sized: dict[tuple[str, int], Callable] = {}
        self.decode_weights = jax.jit(
            lambda params: jax.tree.map(lambda x: x.astype(model.dtype), unstack(params, layers)),
            out_shardings=self.whole,
        )

    def _jit(self, name: str, function: Callable, specs: tuple, donate: tuple[int, ...] = ()) -> Callable:
        def counted(*args):
            self.traces[name] += 1
            return function(*args)

        # Every output is split by rows. Nothing here is replicated, so there is nothing to check (check_vma).
        mapped = jax.shard_map(
            counted, mesh=self.mesh, in_specs=specs, out_specs=P(self.mesh.axis_names), check_vma=False
        )
        return jax.jit(mapped, donate_argnums=donate)

    def grow(self, size: int) -> Callable[[KVCache], KVCache]:
        """The program that gives a cache room for `size` positions."""
        function = partial(step.grow, blocks=size // BLOCK)
        return self._sized.setdefault(("grow", size), self._jit("grow", function, (P(self.mesh.axis_names),)))

    def empty_cache(self, size: int) -> KVCache:
        """A cache of `size` positions for the rows of one batch on every device."""
        if ("empty", size) not in self._sized:
            total = self.slots_per_device * self.mesh.size
            make = partial(init_cache, self.model.config, total, size, self.model.dtype)
            self._sized["empty", size] = jax.jit(make, out_shardings=self.rows)
        return self._sized["empty", size]()

    def put(self, tree):
        """Host arrays [devices * n, ...] to the devices, split by rows."""
        return jax.device_put(tree, self.rows)

"""The sampler: prompts to completions, each row independent of all others."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from jaxrl.sampling.compiled import Programs, row_axes
from jaxrl.sampling.engine import Engine
from jaxrl.sampling.request import SampleRequest, make_request
from jaxrl.sampling.types import Completions, Coordinates, SamplingSpec
from models.backends import decode_kernels, platform_of
from models.cache import BLOCK, cache_bytes
from models.config import Qwen2Config
from models.kernels import Kernels
from models.params import Params
from models.qwen2 import Qwen2

# Prompts per device in one prefill.
PROMPT_ROWS = 4
# Bytes of an error message that a process sends to the others.
MESSAGE_BYTES = 1024
# 64, 96, 128, 192, 256, 384, ...: each length is 1.5 or 1.33 times the one before.
LADDER = tuple(sorted(step * 2**i for i in range(5, 20) for step in (2, 3)))


def default_prompt_lengths(longest: int) -> tuple[int, ...]:
    """Positions of a prefill: the LADDER up to the first length that holds `longest`.

    Never shortened to `longest`: a prefill of another length may differ in the last bits, and the bucket of a prompt
    must not depend on the longest prompt of its request.
    """
    return tuple(length for length, before in zip(LADDER, (0, *LADDER), strict=False) if before < longest)


def default_cache_lengths(
    kernels: Kernels, rows: int, heads: int, longest: int, *, few: bool = False
) -> tuple[int, ...]:
    """Cache lengths, multiples of BLOCK, up to one that holds `longest` positions.

    heads: query heads. few: every second length.
    """
    shortest = kernels.shortest_cache(rows, heads)
    longest = max(longest, shortest)
    lengths = whole_blocks((*(length for length in LADDER if shortest <= length < longest), longest))
    return lengths[::-2][::-1] if few else lengths


def whole_blocks(lengths: Sequence[int]) -> tuple[int, ...]:
    """Lengths rounded up to multiples of BLOCK, without duplicates, ascending."""
    return tuple(sorted({-(-length // BLOCK) * BLOCK for length in lengths}))


def default_batch_sizes(
    kernels: Kernels, config: Qwen2Config, rows: int, shortest: int, *, few: bool = False
) -> tuple[int, ...]:
    """Slots that the last batch may shrink to when rows end: `rows` and its halves, ascending.

    shortest: positions of the shortest cache. few: every second size.
    """
    width = min(config.vocab_size, config.num_attention_heads * shortest)
    sizes = [rows]
    while sizes[0] % 2 == 0 and kernels.can_shrink_to(sizes[0] // 2, width):
        sizes.insert(0, sizes[0] // 2)
    return tuple(sizes[::-2][::-1] if few else sizes)


def batches_within(memory: int, config: Qwen2Config, rows: int, longest: int, dtype: DTypeLike, split: int) -> int:
    """Batches whose caches of `longest` positions take at most `memory` bytes of a device; at least one.

    rows, dtype, split: of one batch, see `cache_bytes`.
    """
    return max(1, memory // cache_bytes(config, rows, longest, dtype, split))


def abstract_weights(model: Qwen2) -> Params:
    """Shapes and types of a model's parameters; nothing is allocated."""
    one = jnp.zeros((1, 2), jnp.int32)
    return nn.meta.unbox(jax.eval_shape(lambda key: model.init(key, one, one, one[:, 0])["params"], jax.random.key(0)))


class Sampler:
    """Samples completions of many prompts on all devices of a mesh.

    The decoding state is immutable (`Slots` and a cache, donated to each program), one decode step advances it, and a
    `lax.while_loop` runs up to `chunk` steps. As in JetStream, a prompt is prefilled once, inserted into the slots of
    its G samples, and generated; between chunks the host refills free slots and reads tokens back. A token is sampled
    by Gumbel-max (exponential form), in two levels (see `sample_token`).

    Rows are decoded in batches of `rows` slots per device, each batch with a cache of its own length; the last batch
    shrinks by halves as its rows end (`batch_sizes`). A completion depends only on weights, prompt and coordinates, not
    on slot, neighbours, number of batches, group size, cache length, refill order or devices, nor on `rows` within the
    limits of the kernels: bit for bit in float32 with `models.cpu`, within float tolerance elsewhere.

    model_config: the model. mesh: rows are sharded over all its devices (default: all devices). In a multi-process run
    all processes must call `sample` with the same arguments, and each gets all completions.
    weight_shardings: of the decode weights, a tree like them (default: replicated). Devices along a mesh axis that
    shards weights work on the same rows together, and count as one device below. dtype: of weights, cache and products.
    longest: most tokens of prompt and completion together (default: max_position_embeddings). rows: slots of one batch
    on one device. memory: bytes of a device for caches; as many batches run at once as fit with the longest cache, and
    the other rows wait for free slots, largest limits first (default: unbounded; 0: one batch). slots: the same bound
    as a number of rows over all devices; it lowers the default of `rows`. chunk: most decode steps before the host
    reads tokens back. cache_lengths, prompt_lengths: ascending sizes, one executable each. few_shapes: every second
    cache length and batch size, so a quarter of the decode programs; no number changes. prompt_rows: prompts per device
    in one prefill. kernels: operations of the backend (default: those for the mesh's platform).
    """

    def __init__(
        self,
        model_config: Qwen2Config,
        mesh: Mesh | None = None,
        *,
        weight_shardings: Any = None,
        dtype: DTypeLike = jnp.float32,
        longest: int | None = None,
        rows: int | None = None,
        memory: int | None = None,
        slots: int | None = None,
        chunk: int | None = None,
        cache_lengths: Sequence[int] | None = None,
        prompt_lengths: Sequence[int] | None = None,
        few_shapes: bool = False,
        prompt_rows: int = PROMPT_ROWS,
        kernels: Kernels | None = None,
    ):
        if mesh is None:
            mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
        self.processes = jax.process_count()
        mesh = mesh.local_mesh if self.processes > 1 else mesh  # each process samples its part on its own devices
        kernels = decode_kernels(platform_of(mesh)) if kernels is None else kernels
        self.config, self.dtype = model_config, jnp.dtype(dtype)
        self.model = Qwen2(model_config, scan_layers=False, dtype=self.dtype, param_dtype=self.dtype, kernels=kernels)
        weight_shardings = _stored_shardings(self.model, mesh, weight_shardings)
        self.devices = math.prod(mesh.shape[axis] for axis in row_axes(mesh, weight_shardings))
        self.rows = _default_rows(kernels, slots, self.devices) if rows is None else rows
        self.prompt_rows = prompt_rows
        self.chunk = kernels.decode_chunk if chunk is None else chunk
        self.longest = model_config.max_position_embeddings if longest is None else longest
        _check_numbers(self, memory, slots)
        if cache_lengths is None:
            heads = model_config.num_attention_heads
            self.cache_lengths = default_cache_lengths(kernels, self.rows, heads, self.longest, few=few_shapes)
        else:
            self.cache_lengths = whole_blocks(cache_lengths)
        self.prompt_lengths = tuple(default_prompt_lengths(self.longest) if prompt_lengths is None else prompt_lengths)
        _check_lengths(self)
        self.batch_sizes = default_batch_sizes(kernels, model_config, self.rows, self.cache_lengths[0], few=few_shapes)
        self.programs = Programs(self.model, mesh, weight_shardings, self.rows, self.chunk)
        bounds = [] if slots is None else [slots // (self.rows * self.devices)]
        if memory is not None:
            bounds.append(self._batches_within(memory, mesh.size // self.devices))
        self.batches = min(bounds, default=None)

    def _batches_within(self, memory: int, split: int) -> int:
        """Batches whose longest caches fit. Raises ValueError for a `memory` above 0 that does not fit one."""
        arguments = self.config, self.rows, self.cache_lengths[-1], self.dtype, split
        one = cache_bytes(*arguments)
        if 0 < memory < one:
            raise ValueError(
                f"the cache of one batch of {self.rows} rows and {self.cache_lengths[-1]} positions takes {one:,} "
                f"bytes of a device, got memory = {memory:,} for all; raise memory, or lower rows or longest."
            )
        return batches_within(memory, *arguments)

    @property
    def traces(self) -> dict[str, int]:
        """How often each program was compiled so far."""
        return dict(self.programs.traces)

    def decode_weights(self, params: Params) -> Params:
        """The learner's scanned, sharded parameters, unrolled, in `dtype`, sharded as `weight_shardings`."""
        return self.programs.decode_weights(params)

    def sample(
        self,
        decode_params: Params,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        coordinates: Coordinates,
        spec: SamplingSpec,
        progress: Callable[[int, int], None] | None = None,
    ) -> Completions:
        """`group_size` completions of every prompt, prompt-major.

        decode_params: from `decode_weights`. coordinates: see Coordinates. progress: called between chunks with the
        number of completions that have ended, and of all. Raises ValueError for an invalid request before anything
        compiles, and FloatingPointError, naming row and step, for logits that are not finite.
        """
        request = make_request(
            prompts, group_size, coordinates, spec, vocab_size=self.config.vocab_size, longest=self.longest
        )
        if self.processes == 1:
            return Engine(self, decode_params, request, progress).run()
        return _sample_multiprocess(self, decode_params, request, progress)


def _stored_shardings(model: Qwen2, mesh: Mesh, shardings: Any) -> Any:
    """Shardings over `mesh` of the decode weights in the kernels' layout; None: replicated."""
    if shardings is None:
        return jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), abstract_weights(model))
    return jax.tree.map_with_path(
        lambda path, sharding: NamedSharding(mesh, model.kernels.store_spec(path, sharding.spec)), shardings
    )


def _default_rows(kernels: Kernels, slots: int | None, devices: int) -> int:
    """Slots of a batch on a device: the kernels' default, or fewer if `slots` are fewer in all."""
    return kernels.decode_rows if slots is None else max(1, min(kernels.decode_rows, slots // devices))


def _check_numbers(sampler: Sampler, memory: int | None, slots: int | None) -> None:
    """Raises ValueError for sizes that are not possible."""
    longest, known = sampler.longest, sampler.config.max_position_embeddings
    for name in ("rows", "chunk", "prompt_rows", "longest"):
        value = getattr(sampler, name)
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}.")
    if longest > known:
        raise ValueError(
            f"longest: expected at most the model's max_position_embeddings, {known}, got {longest}; shorten prompts "
            "or completions, or use a model with more positions."
        )
    if memory is not None and memory < 0:
        raise ValueError(f"memory: expected at least 0 bytes, got {memory}; 0 allows one batch.")
    least = sampler.rows * sampler.devices
    if slots is not None and slots < least:
        raise ValueError(
            f"slots: expected at least one batch of {sampler.rows} rows on each of {sampler.devices} devices, {least} "
            f"in all, got {slots}; raise slots, or lower rows."
        )


def _check_lengths(sampler: Sampler) -> None:
    """Raises ValueError for cache or prompt lengths that are not possible."""
    longest = sampler.longest
    for name in ("cache_lengths", "prompt_lengths"):
        lengths = getattr(sampler, name)
        if not lengths or list(lengths) != sorted(set(lengths)) or lengths[-1] < longest or lengths[0] < 2:
            raise ValueError(
                f"{name}: expected ascending lengths from at least 2 up to longest = {longest}, got {lengths}."
            )


def _sample_multiprocess(sampler: Sampler, params: Params, request: SampleRequest, progress: Any) -> Completions:
    """Each process samples its part of the rows; then all processes gather all rows."""
    subset = np.array_split(np.arange(len(request.length)), sampler.processes)[jax.process_index()]
    error, completions = "", None
    engine = Engine(sampler, params, request, progress, subset)
    try:
        completions = engine.run()
    except FloatingPointError as broken:
        error = str(broken)
    # Without this message the other processes would wait forever in the gather below.
    message = np.zeros(MESSAGE_BYTES, np.uint8)
    message[: len(error.encode())] = np.frombuffer(error.encode(), np.uint8)
    for received in multihost_utils.process_allgather(message):
        if received.any():
            raise FloatingPointError(bytes(received).rstrip(b"\0").decode())
    steps = np.array([engine.row_steps, engine.slot_steps], np.int32)
    # A row is zero in every process but the one that sampled it.
    gathered = multihost_utils.process_allgather((*completions[:-1], steps))  # pyright: ignore[reportOptionalSubscript]
    *rows, steps = (x.sum(axis=0, dtype=x.dtype) for x in gathered)
    return Completions(*rows, float(steps[0] / max(steps[1], 1)))  # pyright: ignore[reportCallIssue]

"""The sampler: prompts in, completions out, row by row independent of each other."""

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
from jaxrl.sampling.engine import Rollout
from jaxrl.sampling.request import Request, make_request
from jaxrl.sampling.types import Completions, Coordinates, SamplingSpec
from models.cache import BLOCK, cache_bytes
from models.config import Qwen2Config
from models.cpu import SMALLEST_ARRAY, is_kernel
from models.params import Params
from models.qwen2 import Qwen2

# Slots of the smallest batch: on a GPU fewer would save little; on a CPU it is the fewest that is tested to the bit.
LEAST_SLOTS_GPU, LEAST_SLOTS_CPU = 16, 8
# Rows that a product takes at a time on a CPU, filled up where there are fewer: numbers do not depend on `rows`.
ROW_UNIT = 32
# Bytes for what one process has to tell the others when it stops.
SENTENCE = 1024
# Lengths in steps of a half and a third.
LADDER = tuple(sorted(step * 2**i for i in range(5, 20) for step in (2, 3)))


def default_prompt_lengths(longest: int) -> tuple[int, ...]:
    """Positions of a prefill: 64, 96, 128, 192, 256, 384, ..., up to the first that holds `longest`.

    Whole steps only, even beyond the model's positions: a prefill of another length may differ in the last bits, and
    the one that a prompt gets must not depend on the longest of those that are asked with it.
    """
    return tuple(length for length, before in zip(LADDER, (0, *LADDER), strict=False) if before < longest)


def default_cache_lengths(rows: int, heads: int, longest: int) -> tuple[int, ...]:
    """Cache lengths, whole blocks each, up to one that holds `longest` positions. They change no number."""
    shortest = max(2 * BLOCK, SMALLEST_ARRAY // (rows * heads))
    longest = max(longest, shortest)
    return whole_blocks((*(length for length in LADDER if shortest <= length < longest), longest))


def whole_blocks(lengths: Sequence[int]) -> tuple[int, ...]:
    """Lengths rounded up to blocks of the cache, each once, ascending."""
    return tuple(sorted({-(-length // BLOCK) * BLOCK for length in lengths}))


def default_batch_sizes(config: Qwen2Config, rows: int, shortest: int, *, on_cpu: bool) -> tuple[int, ...]:
    """Slots that the last batch may shrink to when rows end: `rows` and its halves, ascending.

    shortest: positions of the shortest cache. On a CPU only halves with the numbers of `rows` to the bit: neither a
    step's logits nor attention's scores may fall below SMALLEST_ARRAY.
    """
    narrow = min(config.vocab_size, config.num_attention_heads * shortest)
    sizes = [rows]
    while sizes[0] % 2 == 0:
        half = sizes[0] // 2
        exact = half % LEAST_SLOTS_CPU == 0 and half * narrow >= SMALLEST_ARRAY
        if not exact if on_cpu else half < LEAST_SLOTS_GPU:
            break
        sizes.insert(0, half)
    return tuple(sizes)


def _default_rows(slots: int | None, devices: int, *, on_cpu: bool) -> int:
    """Slots of a batch on a device: the usual number, or fewer where all `slots` are."""
    usual = ROW_UNIT if on_cpu else 128
    return usual if slots is None else max(1, min(usual, slots // devices))


def _check_numbers(sampler: "Sampler", memory: int | None, slots: int | None) -> None:
    """Raises ValueError for numbers that no sampler can have."""
    longest, known = sampler.longest, sampler.config.max_position_embeddings
    for name in ("rows", "chunk", "prompt_rows", "longest"):
        value = getattr(sampler, name)
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}; choose a larger one.")
    if longest > known:
        raise ValueError(
            f"longest must be at most the model's max_position_embeddings, {known}, got {longest}; shorten prompts or "
            "completions, or use a model that reaches further."
        )
    if memory is not None and memory < 0:
        raise ValueError(f"memory must be at least 0 bytes, got {memory}; 0 is room for one batch.")
    least = sampler.rows * sampler.devices
    if slots is not None and slots < least:
        raise ValueError(
            f"slots must hold a batch of {sampler.rows} rows on each of {sampler.devices} devices, {least} in all, got "
            f"{slots}; raise slots, or lower rows."
        )


def _check_lengths(sampler: "Sampler") -> None:
    """Raises ValueError for lengths that no batch can have."""
    longest = sampler.longest
    for name in ("cache_lengths", "prompt_lengths"):
        lengths = getattr(sampler, name)
        if not lengths or list(lengths) != sorted(set(lengths)) or lengths[-1] < longest or lengths[0] < 2:
            raise ValueError(
                f"{name} must ascend from at least 2 and reach longest = {longest}, got {lengths}; add a length."
            )


def batches_within(memory: int, config: Qwen2Config, rows: int, longest: int, dtype: DTypeLike, split: int) -> int:
    """Batches whose caches, grown to `longest` positions, take at most `memory` bytes of a device; one at least."""
    return max(1, memory // cache_bytes(config, rows, longest, dtype, split))


def abstract_weights(model: Qwen2) -> Params:
    """Shapes and types of a model's parameters, nothing allocated."""
    one = jnp.zeros((1, 2), jnp.int32)
    return nn.meta.unbox(jax.eval_shape(lambda key: model.init(key, one, one, one[:, 0])["params"], jax.random.key(0)))


def _turned(spec: PartitionSpec) -> PartitionSpec:
    """How a matrix is split whose transpose is split by `spec`."""
    return PartitionSpec(*(*spec, None)[1::-1]) if spec else spec


class Sampler:
    """Draws completions of many prompts on all devices of a mesh, row by row independent of each other.

    Rows are decoded in batches of `rows` slots a device, each batch with a cache of its own length; the last one
    shrinks by halves as its rows end (`batch_sizes`). Shapes do not depend on the request, products take ROW_UNIT
    rows at a time, and attention does not depend on the cache length, so on CPU in float32 a completion does not
    depend, bit for bit, on slot, neighbours, batch size (a multiple of ROW_UNIT, which makes no array smaller than
    SMALLEST_ARRAY where there are 128 words or more), batch count, group size, cache length, refill order or devices.

    model_config: the model. mesh: rows are spread over all its devices (default: all devices there are); where these
    are of several processes, all must call `sample` alike, and each gets all completions.
    weight_shardings: where decode weights lie (a tree like them; default: whole on every device); devices along a
    mesh axis that splits weights work on the same rows together, and count as one below. dtype: of weights, cache
    and products. longest: tokens of prompt and completion together at most (default max_position_embeddings). rows:
    slots of one batch on one device, the unit of all shapes. memory: bytes of a device for caches; as many batches are
    in work at once as fit with the longest cache, and other rows wait for freed slots, those with the largest limits
    first (default: no bound; 0: one batch). slots: the same bound as a number of rows over all devices; it lowers the
    default of `rows`.
    chunk: tokens between two acts of the host. cache_lengths, prompt_lengths: ascending sizes, one executable each.
    prompt_rows: prompts per device in one prefill.
    """

    def __init__(
        self,
        model_config: Qwen2Config,
        mesh: Mesh | None = None,
        *,
        weight_shardings: Any = None,
        dtype: jnp.dtype = jnp.float32,
        longest: int | None = None,
        rows: int | None = None,
        memory: int | None = None,
        slots: int | None = None,
        chunk: int | None = None,
        cache_lengths: Sequence[int] | None = None,
        prompt_lengths: Sequence[int] | None = None,
        prompt_rows: int = 4,
    ):
        if mesh is None:
            mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
        # Each of several processes draws its part of the rows, on the devices that it holds.
        self.processes = jax.process_count()
        mesh = mesh.local_mesh if self.processes > 1 else mesh
        self.on_cpu = mesh.devices.flat[0].platform == "cpu"
        dtype = jnp.dtype(dtype)
        unit = ROW_UNIT if self.on_cpu else 0
        self.model = Qwen2(model_config, scan_layers=False, dtype=dtype, param_dtype=dtype, row_unit=unit)
        self.config, self.dtype = model_config, dtype
        if weight_shardings is None:
            whole = NamedSharding(mesh, PartitionSpec())
            weight_shardings = jax.tree.map(lambda _: whole, abstract_weights(self.model))
        weight_shardings = jax.tree.map_with_path(
            lambda path, place: NamedSharding(mesh, _turned(place.spec) if unit and is_kernel(path) else place.spec),
            weight_shardings,
        )
        self.devices = math.prod(mesh.shape[axis] for axis in row_axes(mesh, weight_shardings))
        self.rows = _default_rows(slots, self.devices, on_cpu=self.on_cpu) if rows is None else rows
        self.prompt_rows = prompt_rows
        self.chunk = (8 if self.on_cpu else 64) if chunk is None else chunk
        self.longest = model_config.max_position_embeddings if longest is None else longest
        _check_numbers(self, memory, slots)
        heads = model_config.num_attention_heads
        self.cache_lengths = (
            default_cache_lengths(self.rows, heads, self.longest)
            if cache_lengths is None
            else whole_blocks(cache_lengths)
        )
        self.prompt_lengths = tuple(default_prompt_lengths(self.longest) if prompt_lengths is None else prompt_lengths)
        _check_lengths(self)
        self.batch_sizes = default_batch_sizes(model_config, self.rows, self.cache_lengths[0], on_cpu=self.on_cpu)
        self.programs = Programs(self.model, mesh, weight_shardings, self.rows, self.chunk)
        bounds = [] if slots is None else [slots // (self.rows * self.devices)]
        if memory is not None:
            split = mesh.size // self.devices
            one = cache_bytes(model_config, self.rows, self.cache_lengths[-1], dtype, split)
            if 0 < memory < one:
                raise ValueError(
                    f"the cache of one batch of {self.rows} rows and {self.cache_lengths[-1]} positions takes {one:,} "
                    f"bytes of a device, got {memory:,} for all; give it more memory, or lower rows or longest."
                )
            bounds.append(batches_within(memory, model_config, self.rows, self.cache_lengths[-1], dtype, split))
        self.batches = min(bounds, default=None)

    @property
    def traces(self) -> dict[str, int]:
        """How often each program was compiled so far."""
        return dict(self.programs.traces)

    def decode_weights(self, params: Params) -> Params:
        """The learner's scanned, sharded parameters, unrolled, in `dtype`, where `weight_shardings` say."""
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

        decode_params: from `decode_weights`. coordinates: all that the random numbers depend on, see
        Coordinates. progress: told between chunks how many completions have ended, and of how many. Raises
        ValueError before anything compiles for a bad request; FloatingPointError naming row and step when logits
        stop being finite.
        """
        request = make_request(
            prompts, group_size, coordinates, spec, vocab_size=self.config.vocab_size, longest=self.longest
        )
        if self.processes == 1:
            return Rollout(self, decode_params, request, progress).run()
        return _draw_together(self, decode_params, request, progress)


def _draw_together(sampler: Sampler, params: Params, request: Request, progress: Any) -> Completions:
    """Every process draws a stretch of the rows, then all have all of them."""
    own = np.array_split(np.arange(len(request.length)), sampler.processes)[jax.process_index()]
    broken, found = "", None
    rollout = Rollout(sampler, params, request, progress, own)
    try:
        found = rollout.run()
    except FloatingPointError as error:
        broken = str(error)
    # The others must not wait for one that has stopped.
    said = np.zeros(SENTENCE, np.uint8)
    said[: len(broken.encode())] = np.frombuffer(broken.encode(), np.uint8)
    for sentence in multihost_utils.process_allgather(said):
        if sentence.any():
            raise FloatingPointError(bytes(sentence).rstrip(b"\0").decode())
    steps = np.array([rollout.row_steps, rollout.slot_steps], np.int32)
    # A row is zero everywhere but in the process that drew it.
    *drawn, steps = (x.sum(axis=0, dtype=x.dtype) for x in multihost_utils.process_allgather((*found[:-1], steps)))
    return Completions(*drawn, float(steps[0] / max(steps[1], 1)))

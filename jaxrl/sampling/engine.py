"""One call of the sampler: prefill, insert and generate. The host acts only between chunks of device work."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.sampling.request import SampleRequest
from jaxrl.sampling.scheduler import FREE, DecodeBatch, Queue, merge, no_targets
from jaxrl.sampling.types import Completions, initial_slots
from models.cache import KVCache
from models.params import Params


class Prefilled(NamedTuple):
    """The result of one prefill: at most `Sampler.prompt_rows` prompts per device, padded to one length bucket."""

    cache: KVCache
    logits: jax.Array  # [devices * prompt_rows, V] after the last token of each prompt


class Insertion(NamedTuple):
    """A row of the request and the slot it is inserted into."""

    batch: int  # index in `Engine.batches`
    device: int
    slot: int
    row: int


class Engine:
    """The state of one call: insert rows, decode a chunk, collect its tokens, merge batches as rows end.

    A row is one completion of the request. `devices` counts row shards (see `Programs`); `rows` is the number of slots
    of a batch on each of them. Results, by row: tokens [rows, C], logp [rows, C, 2] (before and after truncation),
    produced and finished.
    """

    def __init__(
        self,
        sampler,
        params: Params,
        request: SampleRequest,
        progress: Callable[[int, int], None] | None = None,
        subset: np.ndarray | None = None,
    ):
        """progress: called between chunks with the numbers of ended and of all rows; its exceptions end the call.

        subset: ascending rows of the request to sample (None: all); the results of the others are zeros.
        """
        self.sampler, self.params, self.request, self.programs = sampler, params, request, sampler.programs
        self.devices, self.rows, self.progress, self.ended = sampler.devices, sampler.rows, progress, 0
        self.limit = request.settings["max_new_tokens"]
        total, most = len(request.length), int(self.limit.max())
        self.tokens, self.logp = np.zeros((total, most), np.int32), np.zeros((total, most, 2), np.float32)
        self.produced, self.finished = np.zeros(total, np.int32), np.zeros(total, bool)
        self.searched = np.zeros(total, np.int32)  # tokens already searched for stop strings
        self.slot_steps = self.row_steps = 0  # decode steps of all slots, and those that sampled
        subset = np.arange(total) if subset is None else subset
        self.queue = Queue(self.limit, self.devices, subset)
        self.prefilled: dict[tuple[int, int], tuple[Prefilled, int]] = {}  # (device, prompt) -> result and index in it
        self.requested = len(subset)
        key = jax.random.fold_in(jax.random.key(request.seed, impl="threefry2x32"), request.step)
        eos = jnp.asarray(request.eos_ids or (-1,), jnp.int32)
        self.key, self.eos = jax.device_put((key, eos), self.programs.replicated)
        need = request.length + np.minimum(self.limit, sampler.chunk)
        self.shortest = self._fit(int(need.max()))  # holds any prompt and its first chunk
        required = -(-len(subset) // (self.devices * self.rows))
        self.batches = [self._empty_batch() for _ in range(min(required, sampler.batches or required))]

    def run(self) -> Completions:
        """Generate all rows. Inserts and chunks are started before the host waits for their results."""
        while self.batches:
            first = self._insert_waiting() if len(self.queue) else []
            self.batches = [batch for batch in self.batches if batch.live().any()]  # a short queue may leave some empty
            chunks = [(batch, *self._decode(batch)) for batch in self.batches]
            for rows, token, logp in first:
                self._collect_first(rows, token, logp)
            for chunk in chunks:
                self._collect(*chunk)
            if self.progress:
                self.progress(self.ended, self.requested)
            if not len(self.queue):
                self._merge()
                self._shrink()
        occupancy = self.row_steps / self.slot_steps if self.slot_steps else 1.0
        return Completions(self.tokens, self.produced, self.finished, *np.moveaxis(self.logp, 2, 0), occupancy)  # pyright: ignore[reportCallIssue]

    def _fit(self, positions: int) -> int:
        """The shortest cache length that holds `positions`."""
        return next(length for length in self.sampler.cache_lengths if length >= positions)

    def _empty_batch(self) -> DecodeBatch:
        cache = self.programs.empty_cache(self.shortest)
        empty = {name: np.repeat(value[:1], self.devices * self.rows) for name, value in self.request.settings.items()}
        slots = initial_slots(empty, np.ones(self.devices * self.rows, np.int32))
        slots = self.programs.put(slots._replace(done=np.ones(self.devices * self.rows, bool)))
        return DecodeBatch(cache, slots, np.full((self.devices, self.rows), FREE))

    def _insert_waiting(self) -> list[tuple[np.ndarray, jax.Array, jax.Array]]:
        """Fill free slots from the queue. Returns (rows or FREE, first tokens, their logp) of each program call."""
        insertions = []
        for index, batch in enumerate(self.batches):
            for slot in range(self.rows):
                for device in range(self.devices):
                    if batch.row[device, slot] == FREE and len(self.queue):
                        row = self.queue.take(device)
                        batch.row[device, slot] = row
                        insertions.append(Insertion(index, device, slot, row))
        self._prefill({(each.device, each.row // self.request.group_size) for each in insertions})
        groups: dict[tuple[int, int], list[tuple[Insertion, int]]] = {}
        sources = {}
        for each in insertions:
            source, index = self.prefilled[each.device, each.row // self.request.group_size]
            sources[id(source)] = source
            groups.setdefault((each.batch, id(source)), []).append((each, index))
        first = [self._insert(self.batches[batch], sources[name], group) for (batch, name), group in groups.items()]
        waiting = {row // self.request.group_size for part in self.queue.waiting for row in part}
        self.prefilled = {key: value for key, value in self.prefilled.items() if key[1] in waiting}
        return first

    def _prefill(self, required: set[tuple[int, int]]):
        """Prefill prompts on the devices that need them; a prompt's bucket depends only on its own length."""
        waiting: dict[int, list[list[int]]] = {}
        for device, prompt in sorted(required - self.prefilled.keys()):
            size = len(self.request.prompts[prompt])
            bucket = next(length for length in self.sampler.prompt_lengths if length >= size)
            waiting.setdefault(bucket, [[] for _ in range(self.devices)])[device].append(prompt)
        many = self.sampler.prompt_rows
        for bucket, parts in waiting.items():
            for start in range(0, max(len(part) for part in parts), many):
                tokens = np.zeros((self.devices, many, bucket), np.int32)
                lengths = np.ones((self.devices, many), np.int32)
                entries = [
                    (device, index, prompt)
                    for device, part in enumerate(parts)
                    for index, prompt in enumerate(part[start : start + many])
                ]
                for device, index, prompt in entries:
                    ids = self.request.prompts[prompt]
                    tokens[device, index, : len(ids)], lengths[device, index] = ids, len(ids)
                flat = self.programs.put((tokens.reshape(-1, bucket), lengths.reshape(-1)))
                source = Prefilled(*self.programs.prefill(self.params, *flat))
                self.prefilled |= {(device, prompt): (source, index) for device, index, prompt in entries}

    def _insert(self, batch: DecodeBatch, source: Prefilled, group: list[tuple[Insertion, int]]):
        """Insert rows whose prompts are in one prefill result, and sample their first tokens."""
        shape = self.devices, self.rows
        rows, prompt, target = np.full(shape, FREE), np.zeros(shape, np.int32), no_targets(*shape)
        used = [0] * self.devices
        for each, index in group:
            entry = each.device, used[each.device]
            used[each.device] += 1
            rows[entry], prompt[entry], target[entry] = each.row, index, each.slot
        rows = rows.reshape(-1)
        settings = {name: value[rows] for name, value in self.request.settings.items()}  # any values where FREE
        new = initial_slots(settings, self.request.length[rows])
        pairs = self.request.coordinates[rows]
        arrays = self.programs.put((prompt.reshape(-1), target.reshape(-1), new, pairs))
        batch.cache, batch.slots, token, logp = self.programs.insert[self.request.truncated](
            batch.cache, batch.slots, *source, *arrays, self.key, self.eos
        )
        self.produced[rows[rows != FREE]] = 1
        return rows, token, logp

    def _decode(self, batch: DecodeBatch) -> tuple[jax.Array, jax.Array]:
        """Start a chunk. The cache grows first if some row could outgrow it, and shrinks if half of it is enough."""
        live = batch.row[batch.row != FREE]
        steps = min(self.sampler.chunk, int((self.limit[live] - self.produced[live]).max()))
        end = self.request.length[live] + np.minimum(self.produced[live] + steps, self.limit[live])
        size = max(self._fit(int(end.max()) - 1), self.shortest)  # the last token is sampled, but not cached
        self._grow(batch, size)
        # Without shrinking, positions that only an ended row used would be read for all rows until the end of the call.
        # To free less than half of the positions is not worth the copy, since the rows soon need them.
        if 2 * size <= self.programs.layout.length(batch.cache):
            batch.cache = self.programs.shrink(batch.cache, size)
        batch.cache, batch.slots, tokens, logp = self.programs.decode[self.request.truncated](
            self.params, batch.cache, batch.slots, np.int32(steps), self.eos
        )
        return tokens, logp

    def _grow(self, batch: DecodeBatch, size: int):
        if self.programs.layout.length(batch.cache) < size:
            batch.cache = self.programs.grow(batch.cache, size)

    def _collect_first(self, rows: np.ndarray, token: jax.Array, logp: jax.Array):
        token, logp = jax.device_get((token, logp))
        used = rows != FREE
        self.tokens[rows[used], 0], self.logp[rows[used], 0] = token[used], logp[used]

    def _collect(self, batch: DecodeBatch, tokens: jax.Array, logp: jax.Array):
        """Read a chunk back and free the slots of rows that ended."""
        slots = batch.slots
        fetched = jax.device_get((tokens, logp, slots.produced, slots.done, slots.finished, slots.broken))
        tokens, logp, produced, done, finished, broken = fetched
        slot = np.flatnonzero(batch.row.reshape(-1) != FREE)
        rows = batch.row.reshape(-1)[slot]
        if broken[slot].any():
            self._fail(int(rows[broken[slot]][0]), int(produced[slot][broken[slot]][0]))
        before, after = self.produced[rows], produced[slot]
        sampled = np.zeros(done.shape, np.int32)
        sampled[slot] = after - before
        self.row_steps += int(sampled.sum())
        # A device's loop ends with its last live row, so it ran as long as the row that sampled most.
        self.slot_steps += int(sampled.reshape(batch.row.shape).max(axis=1).sum()) * batch.row.shape[1]
        offset = np.arange(tokens.shape[1])
        entry, column = np.nonzero(offset[None] < (after - before)[:, None])
        self.tokens[rows[entry], before[entry] + column] = tokens[slot[entry], column]
        self.logp[rows[entry], before[entry] + column] = logp[slot[entry], column]
        self.produced[rows], self.finished[rows] = after, finished[slot]
        ended = done[slot]
        if self.request.stop:
            stopped = np.array([self._truncate_at_stop(row) for row in rows.tolist()], bool)
            if (stopped & ~ended).any():
                mask = np.zeros(done.shape, bool)
                mask[slot[stopped]] = True
                batch.slots = self.programs.stop(batch.slots, self.programs.put(mask))
            ended |= stopped
        batch.row.reshape(-1)[slot[ended]] = FREE
        self.ended += int(ended.sum())

    def _truncate_at_stop(self, row: int) -> bool:
        """Whether a new token completes a stop string; the row then ends with that token."""
        tokens = self.tokens[row, : self.produced[row]].tolist()
        end = self.request.stop.end(tokens, int(self.searched[row]))  # pyright: ignore[reportOptionalMemberAccess]
        self.searched[row] = len(tokens)
        if end is None:
            return False
        self.tokens[row, end:], self.logp[row, end:] = 0, 0
        self.produced[row], self.finished[row] = end, True
        self.row_steps -= len(tokens) - end
        return True

    def _fail(self, row: int, produced: int):
        prompt, sample = self.request.coordinates[row]
        raise FloatingPointError(
            f"logits of row {row} (prompt {prompt}, sample {sample}) stopped being finite at token "
            f"{produced - 1}, step {self.request.step}; check the weights (too high a learning rate?)."
        )

    def _merge(self):
        """Move the rows that still run into as few batches as can hold them."""
        for giver, taker, source, target in merge(self.batches):
            giver, taker = self.batches[giver], self.batches[taker]
            size = max(self.programs.layout.length(giver.cache), self.programs.layout.length(taker.cache))
            self._grow(giver, size)
            self._grow(taker, size)
            arrays = self.programs.put((source.reshape(-1), target.reshape(-1)))
            taker.cache, taker.slots = self.programs.move_rows(
                taker.cache, taker.slots, giver.cache, giver.slots, *arrays
            )
        self.batches = [batch for batch in self.batches if batch.live().any()]

    def _shrink(self):
        """Remove free slots of the last batch when no row waits for them.

        A decode step reads the cache of every slot, and the longest rows run long after the others have ended.
        """
        if len(self.batches) != 1:
            return
        batch = self.batches[0]
        size = min(size for size in self.sampler.batch_sizes if size >= batch.live().max())
        if size < batch.row.shape[1]:
            kept = np.argsort(batch.row == FREE, axis=1, kind="stable")[:, :size].astype(np.int32)  # live rows first
            batch.cache, batch.slots = self.programs.gather_rows(
                batch.cache, batch.slots, self.programs.put(kept.reshape(-1))
            )
            batch.row = np.take_along_axis(batch.row, kept, axis=1)

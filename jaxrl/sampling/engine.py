"""One call of the sampler: the host acts only between chunks of device work."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.sampling.request import Request
from jaxrl.sampling.scheduler import FREE, Batch, Queue, merge
from jaxrl.sampling.types import Completions, Slots
from models.cache import KVCache, cache_size
from models.params import Params


class Prefilled(NamedTuple):
    """Prompts of one length bucket that were run through the model; a device holds a few of them."""

    cache: KVCache
    logits: jax.Array


class Seat(NamedTuple):
    """A row of the request and the slot it takes."""

    batch: int
    device: int
    slot: int
    row: int


def unseated(settings: dict[str, np.ndarray], length: np.ndarray) -> Slots:
    """Host-side slots of rows that have their prompt in the cache and no token yet."""
    zeros, no = np.zeros(length.shape, np.int32), np.zeros(length.shape, bool)
    return Slots(
        token=zeros,
        position=length.astype(np.int32) - 1,
        produced=zeros,
        limit=settings["max_new_tokens"],
        done=no,
        finished=no,
        broken=no,
        key=np.zeros((*length.shape, 2), np.uint32),
        temperature=settings["temperature"],
        top_k=settings["top_k"],
        top_p=settings["top_p"],
        min_p=settings["min_p"],
    )


class Rollout:
    """The work of one call: seat rows, decode a chunk, collect, merge batches as rows end."""

    def __init__(
        self,
        sampler,
        params: Params,
        request: Request,
        progress: Callable[[int, int], None] | None = None,
        own: np.ndarray | None = None,
    ):
        """own: the rows to draw, rising (None: all); the others stay zero."""
        self.sampler, self.params, self.request, self.programs = sampler, params, request, sampler.programs
        self.devices, self.rows, self.progress, self.ended = sampler.devices, sampler.rows, progress, 0
        self.limit = request.settings["max_new_tokens"]
        total, most = len(request.length), int(self.limit.max())
        self.tokens, self.logp = np.zeros((total, most), np.int32), np.zeros((total, most, 2), np.float32)
        self.produced, self.finished = np.zeros(total, np.int32), np.zeros(total, bool)
        self.searched = np.zeros(total, np.int32)  # tokens in which no stop string ends
        self.slot_steps = self.row_steps = 0  # decode steps of all slots, and those that drew a token
        own = np.arange(total) if own is None else own
        self.queue = Queue(self.limit, self.devices, own)
        self.prefilled: dict[tuple[int, int], tuple[Prefilled, int]] = {}  # (device, prompt) -> where it lies
        self.asked = len(own)
        key = jax.random.fold_in(jax.random.key(request.seed, impl="threefry2x32"), request.step)
        eos = jnp.asarray(request.eos_ids or (-1,), jnp.int32)
        self.key, self.eos = jax.device_put((key, eos), self.programs.whole)
        need = request.length + np.minimum(self.limit, sampler.chunk)
        self.shortest = self._fit(need.max())  # holds every prompt, whichever is seated next, and its first chunk
        wanted = -(-len(own) // (self.devices * self.rows))
        self.batches = [self._empty_batch() for _ in range(min(wanted, sampler.batches or wanted))]

    def run(self) -> Completions:
        """All rows to their end."""
        while self.batches:
            first = self._seat_waiting() if len(self.queue) else []
            self.batches = [batch for batch in self.batches if batch.live().any()]  # the queue may fill only some
            chunks = [(batch, *self._decode(batch)) for batch in self.batches]
            for rows, token, logp in first:
                self._collect_first(rows, token, logp)
            for chunk in chunks:
                self._collect(*chunk)
            if self.progress:
                self.progress(self.ended, self.asked)
            if not len(self.queue):
                self._merge()
                self._shrink()
        occupancy = self.row_steps / self.slot_steps if self.slot_steps else 1.0
        return Completions(self.tokens, self.produced, self.finished, *np.moveaxis(self.logp, 2, 0), occupancy)

    def _fit(self, positions: int) -> int:
        """The shortest cache length that holds so many positions."""
        return next(length for length in self.sampler.cache_lengths if length >= positions)

    def _empty_batch(self) -> Batch:
        cache = self.programs.empty_cache(self.shortest)
        empty = {name: np.repeat(value[:1], self.devices * self.rows) for name, value in self.request.settings.items()}
        slots = unseated(empty, np.ones(self.devices * self.rows, np.int32))
        slots = self.programs.put(slots._replace(done=np.ones(self.devices * self.rows, bool)))
        return Batch(cache, slots, np.full((self.devices, self.rows), FREE))

    def _seat_waiting(self) -> list[tuple[np.ndarray, jax.Array, jax.Array]]:
        """Fill free slots from the queue. Returns [(row or FREE, first token, its logp) of each seat]."""
        seats = []
        for index, batch in enumerate(self.batches):
            for slot in range(self.rows):
                for device in range(self.devices):
                    if batch.row[device, slot] == FREE and len(self.queue):
                        row = self.queue.take(device)
                        batch.row[device, slot] = row
                        seats.append(Seat(index, device, slot, row))
        self._prefill({(seat.device, seat.row // self.request.group_size) for seat in seats})
        groups: dict[tuple[int, int], list[tuple[Seat, int]]] = {}
        sources = {}
        for seat in seats:
            source, place = self.prefilled[seat.device, seat.row // self.request.group_size]
            sources[id(source)] = source
            groups.setdefault((seat.batch, id(source)), []).append((seat, place))
        first = [self._seat(self.batches[batch], sources[name], group) for (batch, name), group in groups.items()]
        waiting = {row // self.request.group_size for part in self.queue.waiting for row in part}
        self.prefilled = {key: value for key, value in self.prefilled.items() if key[1] in waiting}
        return first

    def _prefill(self, wanted: set[tuple[int, int]]):
        """Run prompts through the model where they are needed; a prompt's bucket depends on it alone."""
        waiting: dict[int, list[list[int]]] = {}
        for device, prompt in sorted(wanted - self.prefilled.keys()):
            size = len(self.request.prompts[prompt])
            bucket = next(length for length in self.sampler.prompt_lengths if length >= size)
            waiting.setdefault(bucket, [[] for _ in range(self.devices)])[device].append(prompt)
        many = self.sampler.prompt_rows
        for bucket, parts in waiting.items():
            for start in range(0, max(len(part) for part in parts), many):
                tokens = np.zeros((self.devices, many, bucket), np.int32)
                lengths = np.ones((self.devices, many), np.int32)
                held = [
                    (device, place, prompt)
                    for device, part in enumerate(parts)
                    for place, prompt in enumerate(part[start : start + many])
                ]
                for device, place, prompt in held:
                    ids = self.request.prompts[prompt]
                    tokens[device, place, : len(ids)], lengths[device, place] = ids, len(ids)
                flat = self.programs.put((tokens.reshape(-1, bucket), lengths.reshape(-1)))
                source = Prefilled(*self.programs.prefill(self.params, *flat))
                self.prefilled |= {(device, prompt): (source, place) for device, place, prompt in held}

    def _seat(self, batch: Batch, source: Prefilled, group: list[tuple[Seat, int]]):
        """Seat rows whose prompts lie in one prefill result."""
        shape = self.devices, self.rows
        rows, place = np.full(shape, FREE), np.zeros(shape, np.int32)
        target = np.broadcast_to(self.rows + np.arange(self.rows, dtype=np.int32), shape).copy()
        used = [0] * self.devices
        for seat, where in group:
            entry = seat.device, used[seat.device]
            used[seat.device] += 1
            rows[entry], place[entry], target[entry] = seat.row, where, seat.slot
        rows = rows.reshape(-1)
        settings = {name: value[rows] for name, value in self.request.settings.items()}  # FREE takes any row's
        new = unseated(settings, self.request.length[rows])
        pairs = self.request.coordinates[rows]
        arrays = self.programs.put((place.reshape(-1), target.reshape(-1), new, pairs))
        batch.cache, batch.slots, token, logp = self.programs.seat[self.request.truncated](
            batch.cache, batch.slots, *source, *arrays, self.key, self.eos
        )
        self.produced[rows[rows != FREE]] = 1
        return rows, token, logp

    def _decode(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Start a chunk; the cache is grown first if some row could outgrow it, and cut if half of it is enough."""
        live = batch.row[batch.row != FREE]
        steps = min(self.sampler.chunk, int((self.limit[live] - self.produced[live]).max()))
        end = self.request.length[live] + np.minimum(self.produced[live] + steps, self.limit[live])
        size = max(self._fit(end.max() - 1), self.shortest)
        self._grow(batch, size)
        # The blocks of a long row that has ended would be read for all others to the end of the call. Not for less than
        # half: rows soon grow again, and then all is copied for little.
        if 2 * size <= cache_size(batch.cache):
            batch.cache = self.programs.shorten(batch.cache, size)
        batch.cache, batch.slots, tokens, logp = self.programs.decode[self.request.truncated](
            self.params, batch.cache, batch.slots, np.int32(steps), self.eos
        )
        return tokens, logp

    def _grow(self, batch: Batch, size: int):
        if cache_size(batch.cache) < size:
            batch.cache = self.programs.grow(batch.cache, size)

    def _collect_first(self, rows: np.ndarray, token: jax.Array, logp: jax.Array):
        token, logp = jax.device_get((token, logp))
        held = rows != FREE
        self.tokens[rows[held], 0], self.logp[rows[held], 0] = token[held], logp[held]

    def _collect(self, batch: Batch, tokens: jax.Array, logp: jax.Array):
        """Read a chunk back and free the slots of rows that ended."""
        slots = batch.slots
        fetched = jax.device_get((tokens, logp, slots.produced, slots.done, slots.finished, slots.broken))
        tokens, logp, produced, done, finished, broken = fetched
        slot = np.flatnonzero(batch.row.reshape(-1) != FREE)
        rows = batch.row.reshape(-1)[slot]
        if broken[slot].any():
            self._fail(rows[broken[slot]][0], produced[slot][broken[slot]][0])
        before, after = self.produced[rows], produced[slot]
        drawn = np.zeros(done.shape, np.int32)
        drawn[slot] = after - before
        self.row_steps += int(drawn.sum())
        # A device's loop ends with its last live row, so it ran as long as the row that drew most.
        self.slot_steps += int(drawn.reshape(batch.row.shape).max(axis=1).sum()) * batch.row.shape[1]
        offset = np.arange(tokens.shape[1])
        entry, column = np.nonzero(offset[None] < (after - before)[:, None])
        self.tokens[rows[entry], before[entry] + column] = tokens[slot[entry], column]
        self.logp[rows[entry], before[entry] + column] = logp[slot[entry], column]
        self.produced[rows], self.finished[rows] = after, finished[slot]
        ended = done[slot]
        if self.request.stop:
            stopped = np.array([self._cut_at_stop(row) for row in rows], bool)
            if (stopped & ~ended).any():
                mask = np.zeros(done.shape, bool)
                mask[slot[stopped]] = True
                batch.slots = self.programs.retire(batch.slots, self.programs.put(mask))
            ended |= stopped
        batch.row.reshape(-1)[slot[ended]] = FREE
        self.ended += int(ended.sum())

    def _cut_at_stop(self, row: int) -> bool:
        """Whether a stop string has come up since the last look; the row then ends with the token that completes it."""
        drawn = self.tokens[row, : self.produced[row]].tolist()
        end = self.request.stop.end(drawn, int(self.searched[row]))
        self.searched[row] = len(drawn)
        if end is None:
            return False
        self.tokens[row, end:], self.logp[row, end:] = 0, 0
        self.produced[row], self.finished[row] = end, True
        self.row_steps -= len(drawn) - end
        return True

    def _fail(self, row: int, produced: int):
        prompt, sample = self.request.coordinates[row]
        raise FloatingPointError(
            f"logits of row {row} (prompt {prompt}, sample {sample}) stopped being finite at token "
            f"{produced - 1}, step {self.request.step}; check the weights (too high a learning rate?)."
        )

    def _merge(self):
        """Gather the rows that still run in as few batches as can hold them."""
        for giver, taker, source, target in merge(self.batches):
            giver, taker = self.batches[giver], self.batches[taker]
            size = max(cache_size(giver.cache), cache_size(taker.cache))
            self._grow(giver, size)
            self._grow(taker, size)
            arrays = self.programs.put((source.reshape(-1), target.reshape(-1)))
            taker.cache, taker.slots = self.programs.move(taker.cache, taker.slots, giver.cache, giver.slots, *arrays)
        self.batches = [batch for batch in self.batches if batch.live().any()]

    def _shrink(self):
        """Nothing waits for the free slots of the last batch: leave as many of them behind as can be.

        A decode step reads the cache of every slot, and the longest rows run long after the others have ended.
        """
        if len(self.batches) != 1:
            return
        batch = self.batches[0]
        size = min(size for size in self.sampler.batch_sizes if size >= batch.live().max())
        if size < batch.row.shape[1]:
            kept = np.argsort(batch.row == FREE, axis=1, kind="stable")[:, :size].astype(np.int32)  # live ones first
            batch.cache, batch.slots = self.programs.keep(batch.cache, batch.slots, self.programs.put(kept.reshape(-1)))
            batch.row = np.take_along_axis(batch.row, kept, axis=1)

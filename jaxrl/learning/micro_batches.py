"""Splits rows of many lengths into micro-batches of a few shapes, on the host.

Rows are sorted by length and split, longest first, into micro-batches of about equally many tokens, each padded to the
smallest bucket that fits. If the next rows are much shorter, a micro-batch may have half the usual number of rows, so
that fewer tokens are padding; the last ones may also have a quarter. So at most three shapes per bucket are compiled,
usually one or two; with `few_shapes` there is one.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jaxrl.algorithms.batch import Batch

OVERHEAD = 16  # fixed cost of a micro-batch (gathering weights, adding gradients), as 1 / OVERHEAD of its tokens


@dataclasses.dataclass(frozen=True)
class LayoutSpec:
    """How the rows of a step are split. Does not affect results, except for rounding.

    buckets: row lengths in increasing order, see `length_buckets`; the last fits the longest possible row.
    micro_tokens: tokens of a micro-batch over all devices, including padding (at least one row per device).
    few_shapes: one number of rows per bucket. Half as many programs to compile, for one or two percent more padding.
    """

    buckets: tuple[int, ...]
    micro_tokens: int = 4096
    few_shapes: bool = False

    def __post_init__(self):
        if not self.buckets or list(self.buckets) != sorted(set(self.buckets)) or self.buckets[0] < 2:
            raise ValueError(f"buckets: expected increasing lengths of 2 or more, got {self.buckets}")
        if self.micro_tokens < 1:
            raise ValueError(f"micro_tokens: expected 1 or more, got {self.micro_tokens}")

    def for_forward(self) -> "LayoutSpec":
        """The layout of programs without gradients, such as log-probabilities.

        With `few_shapes`, every second bucket up to the longest: a forward pass is a quarter of a step's learning, so
        its padding costs less than more programs.
        """
        if not self.few_shapes:
            return self
        return dataclasses.replace(self, buckets=self.buckets[::-2][::-1])

    def shapes(self, shards: int) -> list[tuple[int, int]]:
        """All shapes (rows, length) that a micro-batch may have, shortest first."""
        return [(size, length) for length in self.buckets for size in micro_batch_sizes(length, self, shards)]


class MicroBatch(NamedTuple):
    """A part of a batch: the indices of its rows, and its padded shape of `size` rows of `length` tokens."""

    rows: Int[np.ndarray, " N"]
    size: int
    length: int


def length_buckets(longest: int, *, shortest: int = 32, multiple: int = 8, ratio: float = 1.12) -> tuple[int, ...]:
    """Lengths from `shortest` up to `longest`, multiples of `multiple`, each about `ratio` times the previous one.

    Padding to the next bucket wastes (ratio - 1) / 2 of the tokens on average. Use multiple=128 with cuDNN.
    """
    if not longest >= 2 or shortest < 1 or multiple < 1 or ratio <= 1:
        raise ValueError(
            "length buckets: expected longest >= 2, shortest and multiple >= 1 and ratio > 1, got "
            f"longest={longest}, shortest={shortest}, multiple={multiple}, ratio={ratio}"
        )

    def round_up(length: int) -> int:
        return max(-(-length // multiple) * multiple, 2)

    buckets, least = [round_up(longest)], round_up(shortest)
    while buckets[-1] > least:
        buckets.append(max(min(int(buckets[-1] / ratio) // multiple * multiple, buckets[-1] - multiple), least))
    return tuple(sorted(buckets))


def micro_batch_rows(length: int, micro_tokens: int, shards: int) -> int:
    """Number of rows of a micro-batch with rows of `length` tokens: a multiple of `shards`, at least `shards`."""
    return max(micro_tokens // length // shards, 1) * shards


def micro_batch_sizes(length: int, layout: LayoutSpec, shards: int) -> list[int]:
    """Allowed numbers of rows of a micro-batch, increasing: a quarter, a half or all of `micro_batch_rows`.

    With `few_shapes` only all of them.
    """
    rows = micro_batch_rows(length, layout.micro_tokens, shards)
    divisors = (1,) if layout.few_shapes else (1, 2, 4)
    return sorted({max(rows // divisor // shards, 1) * shards for divisor in divisors})


def split_into_micro_batches(lengths: Int[np.ndarray, " B"], layout: LayoutSpec, shards: int) -> list[MicroBatch]:
    """Micro-batches that together contain every row once, with the least cost of padding and overhead.

    lengths: tokens of each row. Raises ValueError for a row longer than the last bucket.
    """
    longest = int(lengths.max(initial=0))
    if longest > layout.buckets[-1]:
        raise ValueError(
            f"a row of {longest} tokens does not fit the longest bucket, {layout.buckets[-1]}; "
            "add a bucket for prompt length + new tokens"
        )
    order = np.argsort(-lengths, kind="stable")
    padded = np.array(layout.buckets)[np.searchsorted(layout.buckets, lengths[order])].tolist()
    sizes = _best_sizes(padded, layout, shards)
    micro_batches, start = [], 0
    while start < len(order):
        micro_batches.append(MicroBatch(order[start : start + sizes[start]], sizes[start], padded[start]))
        start += sizes[start]
    return micro_batches


def _best_sizes(padded: list[int], layout: LayoutSpec, shards: int) -> list[int]:
    """The number of rows of a micro-batch that starts at each row, by dynamic programming over the remaining cost."""
    count = len(padded)
    costs, best = [0.0] * (count + 1), [0] * count
    for start in range(count - 1, -1, -1):
        sizes = micro_batch_sizes(padded[start], layout, shards)
        # Less than half (rounded down) only at the end: elsewhere a third shape takes longer to compile than it saves.
        allowed = [size for size in sizes if 3 * size >= sizes[-1] or start + size >= count]
        cost = {size: size * padded[start] + costs[min(start + size, count)] for size in allowed}
        best[start] = min(reversed(allowed), key=lambda size: cost[size])
        costs[start] = cost[best[start]] + layout.micro_tokens / OVERHEAD
    return best


def gather_rows(batch: Batch, micro: MicroBatch) -> Batch:
    """The rows of a micro-batch in its padded shape, with zeros as padding, whatever the padding of `batch` holds.

    Rows that only fill up the shape have length 1 and an empty loss mask.
    """
    lengths = np.ones(micro.size, np.int32)
    lengths[: len(micro.rows)] = batch.lengths[micro.rows]

    def pad(values: np.ndarray | None) -> np.ndarray | None:
        if values is None:
            return None
        out = np.zeros((micro.size, micro.length), values.dtype)
        width = min(micro.length, values.shape[1])
        out[: len(micro.rows), :width] = values[micro.rows, :width]
        out[np.arange(micro.length)[None] >= lengths[:, None]] = 0
        return out

    return Batch(pad(batch.tokens), lengths, *(pad(values) for values in batch[2:]))


def padding_share(lengths: Int[np.ndarray, " B"], micro_batches: Sequence[MicroBatch]) -> float:
    """Share of the computed tokens that are padding, including rows that only fill up the shape."""
    computed = sum(micro.size * micro.length for micro in micro_batches)
    return 1.0 - float(lengths.sum()) / max(computed, 1)

"""From rows of many lengths to micro-batches of a few shapes, on the host.

Rows are sorted by length and cut, longest first, into micro-batches of about the same number of tokens; each is padded
to the smallest bucket that holds it. Where lengths fall fast a micro-batch may have half of the rows, and the last,
which the rows that are left seldom fill, a quarter. So no more than three shapes a bucket are ever compiled, and mostly
one or two.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxrl.algorithms.batch import Batch

OVERHEAD = 16  # a micro-batch costs so small a part of its tokens besides: weights are gathered, gradients summed


@dataclasses.dataclass(frozen=True)
class LayoutSpec:
    """How a step is cut up; nothing here changes a result (beyond rounding).

    buckets: row lengths in rising order, see `length_buckets`; the last holds the longest row there can be.
    micro_tokens: tokens of a micro-batch over all devices, padding included (at least one row a device).
    """

    buckets: tuple[int, ...]
    micro_tokens: int = 4096

    def __post_init__(self):
        if not self.buckets or list(self.buckets) != sorted(set(self.buckets)) or self.buckets[0] < 2:
            raise ValueError(f"buckets: expected rising lengths of 2 or more, got {self.buckets}")
        if self.micro_tokens < 1:
            raise ValueError(f"micro_tokens: expected 1 or more, got {self.micro_tokens}")


class Piece(NamedTuple):
    """One micro-batch: which rows of the batch, padded to `size` rows of `length` tokens."""

    rows: np.ndarray
    size: int
    length: int


def length_buckets(longest: int, *, shortest: int = 32, multiple: int = 8, ratio: float = 1.12) -> tuple[int, ...]:
    """Lengths from `shortest` up to `longest`, multiples of `multiple`, each about `ratio` times the last.

    Padding up to the next bucket wastes (ratio - 1) / 2 of the tokens on average. Use multiple=128 with
    cuDNN.
    """
    if not longest >= 2 or shortest < 1 or multiple < 1 or ratio <= 1:
        raise ValueError(
            "length buckets: expected longest >= 2, shortest and multiple >= 1 and ratio > 1, got "
            f"longest={longest}, shortest={shortest}, multiple={multiple}, ratio={ratio}"
        )

    def up(length: float) -> int:
        return max(-(-int(length) // multiple) * multiple, 2)

    buckets = [up(longest)]
    while buckets[-1] > up(shortest):
        buckets.append(max(min(int(buckets[-1] / ratio) // multiple * multiple, buckets[-1] - multiple), up(shortest)))
    return tuple(sorted(buckets))


def rows_of(length: int, micro_tokens: int, shards: int) -> int:
    """Rows of a micro-batch whose rows have `length` tokens: a multiple of `shards`, at least one each."""
    return max(micro_tokens // length // shards, 1) * shards


def sizes_of(length: int, micro_tokens: int, shards: int) -> list[int]:
    """Rows that a micro-batch of this length may have, ascending: a quarter, a half or all of `rows_of`."""
    whole = rows_of(length, micro_tokens, shards)
    return sorted({max(whole // part // shards, 1) * shards for part in (1, 2, 4)})


def cut(lengths: np.ndarray, layout: LayoutSpec, shards: int) -> list[Piece]:
    """Micro-batches that hold every row once, at the least tokens with padding and overhead.

    Raises ValueError for a row longer than the last bucket.
    """
    longest = int(lengths.max(initial=0))
    if longest > layout.buckets[-1]:
        raise ValueError(
            f"a row of {longest} tokens does not fit the longest bucket, {layout.buckets[-1]}; "
            "add a bucket for prompt length + new tokens"
        )
    order = np.argsort(-lengths, kind="stable")
    padded = np.array(layout.buckets)[np.searchsorted(layout.buckets, lengths[order])].tolist()
    sizes = _best_sizes(padded, layout.micro_tokens, shards)
    pieces, start = [], 0
    while start < len(order):
        pieces.append(Piece(order[start : start + sizes[start]], sizes[start], padded[start]))
        start += sizes[start]
    return pieces


def _best_sizes(padded: list[int], micro_tokens: int, shards: int) -> list[int]:
    """Rows of the micro-batch that begins at each row, such that it and all after it cost least."""
    count = len(padded)
    costs, chosen = [0.0] * (count + 1), [0] * count
    for start in range(count - 1, -1, -1):
        sizes = sizes_of(padded[start], micro_tokens, shards)
        # Less than half (rounded down) only at the end: more shapes would take longer to compile than they save.
        fit = [size for size in sizes if 3 * size >= sizes[-1] or start + size >= count]
        each = {size: size * padded[start] + costs[min(start + size, count)] for size in fit}
        chosen[start] = min(reversed(fit), key=each.get)
        costs[start] = each[chosen[start]] + micro_tokens / OVERHEAD
    return chosen


def take(batch: Batch, piece: Piece) -> Batch:
    """The rows of a piece as a micro-batch of its shape; zeros beyond each row's length, whatever was there.

    Rows that only fill up the shape have length 1 and an empty loss mask.
    """
    lengths = np.ones(piece.size, np.int32)
    lengths[: len(piece.rows)] = batch.lengths[piece.rows]

    def fill(values: np.ndarray | None) -> np.ndarray | None:
        if values is None:
            return None
        out = np.zeros((piece.size, piece.length), values.dtype)
        width = min(piece.length, values.shape[1])
        out[: len(piece.rows), :width] = values[piece.rows, :width]
        out[np.arange(piece.length)[None] >= lengths[:, None]] = 0
        return out

    return Batch(fill(batch.tokens), lengths, *(fill(values) for values in batch[2:]))


def padding_share(lengths: np.ndarray, pieces: Sequence[Piece]) -> float:
    """Share of the computed tokens that are padding, rows that fill up included."""
    computed = sum(piece.size * piece.length for piece in pieces)
    return 1.0 - float(lengths.sum()) / max(computed, 1)

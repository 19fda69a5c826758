"""The host's record of the decode batches: which row of the request is in which slot."""

import dataclasses

import numpy as np

from jaxrl.sampling.types import Slots
from models.cache import KVCache

FREE = -1  # in `DecodeBatch.row`: no row is in this slot


@dataclasses.dataclass
class DecodeBatch:
    """The same number of slots on every device, decoded together over a cache of one length."""

    cache: KVCache
    slots: Slots
    row: np.ndarray  # [devices, rows] int: row of the request in each slot, or FREE

    def free(self, device: int) -> np.ndarray:
        """Free slots of a device."""
        return np.flatnonzero(self.row[device] == FREE)

    def live(self) -> np.ndarray:
        """[devices] int: occupied slots of each device."""
        return (self.row != FREE).sum(axis=1)


class Queue:
    """Rows that wait for a slot, in one list per device; a device with an empty list takes from the longest one.

    limit: most tokens of each row of the request; rows: those that wait. Rows with the largest limits go first, so that
    no long row starts when the others have ended (Graham 1969, longest processing time first).
    """

    def __init__(self, limit: np.ndarray, devices: int, rows: np.ndarray):
        parts = np.array_split(rows, devices)
        # Each list is reversed, so that the next row is taken from its end in constant time.
        self.waiting = [list(part[np.argsort(-limit[part], kind="stable")][::-1]) for part in parts]

    def __len__(self) -> int:
        return sum(len(part) for part in self.waiting)

    def take(self, device: int) -> int:
        """The next row for this device; if its own list is empty, the row that the longest list would give last."""
        part = self.waiting[device]
        if part:
            return int(part.pop())
        longest = max(self.waiting, key=len)
        return int(longest.pop(0))


def merge(batches: list[DecodeBatch]) -> list[tuple[int, int, np.ndarray, np.ndarray]]:
    """Moves that empty as many batches as possible: (from, to, source[devices, rows], target[devices, rows]).

    The emptiest batches are moved into the fullest. Targets at or beyond the number of rows mean no move. Changes `row`
    of the batches accordingly; the caller must make the cache lengths equal before it copies the rows.
    """
    if not batches:
        return []
    devices, rows = batches[0].row.shape
    needed = int(np.ceil(np.sum([batch.live() for batch in batches], axis=0).max() / rows))
    order = sorted(range(len(batches)), key=lambda i: -int(batches[i].live().sum()))
    moves = []
    for giver in order[needed:]:
        for taker in order[:needed]:
            source = np.zeros((devices, rows), np.int32)
            target = no_targets(devices, rows)
            for device in range(devices):
                leaving = np.flatnonzero(batches[giver].row[device] != FREE)
                free = batches[taker].free(device)
                count = min(len(leaving), len(free))
                source[device, :count], target[device, :count] = leaving[:count], free[:count]
                batches[taker].row[device, free[:count]] = batches[giver].row[device, leaving[:count]]
                batches[giver].row[device, leaving[:count]] = FREE
            if (target < rows).any():
                moves.append((giver, taker, source, target))
    return moves


def no_targets(devices: int, rows: int) -> np.ndarray:
    """[devices, rows] int: distinct target slots beyond the last one, so that every copy is dropped."""
    return np.broadcast_to(rows + np.arange(rows, dtype=np.int32), (devices, rows)).copy()

"""The host's picture of what the devices hold: which row of the request sits in which slot."""

import dataclasses

import numpy as np

from jaxrl.sampling.types import Slots
from models.cache import KVCache

FREE = -1


@dataclasses.dataclass
class Batch:
    """The same number of slots on every device, decoded together over a cache of one length."""

    cache: KVCache
    slots: Slots
    row: np.ndarray  # [devices, rows] int: row of the request in each slot, FREE where there is none

    def free(self, device: int) -> np.ndarray:
        """Free slots of a device."""
        return np.flatnonzero(self.row[device] == FREE)

    def live(self) -> np.ndarray:
        """[devices] int: rows in work on each device."""
        return (self.row != FREE).sum(axis=1)


class Queue:
    """Rows that wait for a slot, a stretch for each device; one that runs out takes from the longest.

    limit: tokens that each row may draw; rows: those that wait. The ones with most go first, so that no long one starts
    when the others have ended (Graham 1969, longest processing time first).
    """

    def __init__(self, limit: np.ndarray, devices: int, rows: np.ndarray):
        parts = np.array_split(rows, devices)
        self.waiting = [list(part[np.argsort(-limit[part], kind="stable")][::-1]) for part in parts]

    def __len__(self) -> int:
        return sum(len(part) for part in self.waiting)

    def take(self, device: int) -> int:
        """The next row for this device. The last rows of another stretch when its own is empty."""
        part = self.waiting[device]
        if part:
            return int(part.pop())
        longest = max(self.waiting, key=len)
        return int(longest.pop(0))


def merge(batches: list[Batch]) -> list[tuple[int, int, np.ndarray, np.ndarray]]:
    """Moves that empty as many batches as possible: (from, to, source[devices, rows], target[devices, rows]).

    The emptiest batches are emptied into the fullest. Targets at or beyond the number of rows mean no move.
    Changes `row` of the batches accordingly; sizes must be made equal by the caller before the rows are
    copied.
    """
    if not batches:
        return []
    devices, rows = batches[0].row.shape
    needed = int(np.ceil(sum(batch.live() for batch in batches).max() / rows))
    order = sorted(range(len(batches)), key=lambda i: -int(batches[i].live().sum()))
    moves = []
    for giver in order[needed:]:
        for taker in order[:needed]:
            source = np.zeros((devices, rows), np.int32)
            target = np.broadcast_to(rows + np.arange(rows, dtype=np.int32), (devices, rows)).copy()
            for device in range(devices):
                leaving = np.flatnonzero(batches[giver].row[device] != FREE)
                room = batches[taker].free(device)
                count = min(len(leaving), len(room))
                source[device, :count], target[device, :count] = leaving[:count], room[:count]
                batches[taker].row[device, room[:count]] = batches[giver].row[device, leaving[:count]]
                batches[giver].row[device, leaving[:count]] = FREE
            if (target < rows).any():
                moves.append((giver, taker, source, target))
    return moves

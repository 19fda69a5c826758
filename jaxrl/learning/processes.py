"""Several processes that make one run, on one host or many: what they agree on, and which of them writes.

Every process does the same on the host, from the same numbers: only then do they call the same programs in the same
order. What they can't know alike (a clock, a signal, a disk) one decides for all. With one process nothing here costs
anything.
"""

import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def leads() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def shared(value: Any) -> Any:
    """What the leading process has for a JSON value, in every process; all have to call it, and wait for each other."""
    if jax.process_count() == 1:
        return value
    said = np.frombuffer(json.dumps(value).encode(), np.uint8) if leads() else np.zeros(0, np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(said.size)))
    said = multihost_utils.broadcast_one_to_all(said if leads() else np.zeros(size, np.uint8))
    return json.loads(np.asarray(said, np.uint8).tobytes())


def any_process(flag: bool) -> bool:
    """Whether it is true in some process; all have to call it."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.int32(flag)).any())


def fetch(tree: Any) -> Any:
    """Arrays, whole, on the host of every process, also those of which it holds a part only."""
    return jax.tree.map(_fetch, tree)


def _fetch(x: Any) -> Any:
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        return multihost_utils.process_allgather(x, tiled=True)
    return jax.device_get(x)

"""Several processes that make one run, on one host or many: what they agree on, and which of them writes.

Every process does the same on the host, from the same numbers: only then do they call the same programs in the same
order. What they can't know alike (a clock, a signal, a disk) one decides for all. With one process nothing here costs
anything.
"""

import errno
import importlib.util
import itertools
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

STALE = 90
"""Seconds after which every host sees what another one has written: NFS may take what a folder held for valid as long
as acdirmin to acdirmax say, 30 to 60 seconds where nothing else is mounted."""
_LOOK = 0.5  # seconds between two looks for it
_LAST_WORDS = 2  # seconds
_NAMED = 45  # seconds in which JAX has found out which process is lost, and ended this one
_COLLECTIVE = re.compile(r"\b(Gloo|NCCL)\b")  # said by a program that waited for another process


def is_multiprocess() -> bool:
    """Whether this process is one of several; does not wait for the others, as JAX's own count may."""
    return jax.distributed.is_initialized()


def is_lost_peer(error: BaseException) -> bool:
    """Whether it is that of a program that missed another process; JAX raises it as ValueError or RuntimeError."""
    return isinstance(error, ValueError | RuntimeError) and bool(_COLLECTIVE.search(str(error)))


def leave(said: str, status: int, *, others: bool = False) -> NoReturn:
    """End this one of several processes at once, saying why, with its number and host.

    The others, which may wait for it, end when they miss its sign of life. Nothing runs that ends a program in order:
    JAX would wait for the others then, and they for this one. others: another one is lost; JAX is left the time to
    end this process with the number of that one.
    """
    from jax._src import distributed

    index = distributed.global_state.process_id
    sys.stdout.flush()
    print(f"process {index} on {socket.gethostname()} ends: {said}", file=sys.stderr, flush=True)
    if others:
        time.sleep(_NAMED)
    elif index == 0:  # the others are connected through it, and where all fail alike each has to say so
        time.sleep(_LAST_WORDS)
    os._exit(status)


def is_primary() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def broadcast_from_primary(value: Any) -> Any:
    """What the leading process has for a JSON value, in every process; all have to call it, and wait for each other."""
    if jax.process_count() == 1:
        return value
    said = np.frombuffer(json.dumps(value).encode(), np.uint8) if is_primary() else np.zeros(0, np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(said.size)))
    said = multihost_utils.broadcast_one_to_all(said if is_primary() else np.zeros(size, np.uint8))
    return json.loads(np.asarray(said, np.uint8).tobytes())


def run_on_primary(act: Callable[[], Any]) -> Any:
    """What `act` gives the leading process, a JSON value, in every process; the others do nothing but wait.

    What it refuses, by ValueError or OSError, all refuse.
    """
    if not is_multiprocess():
        return act()
    value, refused = None, None
    if is_primary():
        try:
            value = act()
        except (OSError, ValueError) as error:
            refused = error
    value, refusal = broadcast_from_primary([value, str(refused) if refused else None])
    if refusal is not None:
        raise refused or OSError(refusal)
    return value


def until_seen(seen: Callable[[], bool], path: Path) -> None:
    """Wait until this process sees what the leading one has written; raises OSError where it does not in STALE seconds.

    seen: looks at the disk; `path` is what it looks for, as the refusal names it.
    """
    until = time.monotonic() + STALE
    while not seen():
        if time.monotonic() > until:
            raise OSError(
                f"process {jax.process_index()} does not find {path}, which process 0 has written; choose a "
                "--workdir in a file system that all hosts share."
            )
        time.sleep(_LOOK)


def any_process(flag: bool) -> bool:
    """Whether it is true in some process; all have to call it."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.int32(flag)).any())


class Meeting:
    """Where background threads of all processes wait for each other: the barrier that Orbax is given for its writes.

    Unlike with a plain barrier, a process that comes to another place than the others (it left its write for an error)
    is no reason to wait on: all of them hear of it at once, and none waits here again.
    """

    _count = itertools.count()  # a barrier's name can be used once, so it goes on over all meetings

    def __init__(self):
        self.parted = False  # whether some process went elsewhere

    def __call__(self, *, key: str, timeout_ms: int) -> None:
        """Wait until all are here; raises OSError where one is elsewhere, RuntimeError where one is gone."""
        if jax.process_count() == 1 or self.parted:
            return
        client, place = _client(), f"jaxrl/meeting/{next(Meeting._count)}"
        client.key_value_set(f"{place}/{jax.process_index()}", key)
        try:
            client.wait_at_barrier(place, timeout_ms)
            if len({where for _, where in client.key_value_dir_get(place)}) > 1:
                raise self.failure()
        except Exception:
            self.parted = True
            raise

    def failure(self) -> OSError:
        """What a process says where another one failed."""
        return _Elsewhere(errno.EIO, "another process could not write its part of a checkpoint; what it said tells why")

    def cause(self, error: Exception) -> Exception:
        """The error of this process, where it met the others only afterwards."""
        return error.__context__ or error if isinstance(error, _Elsewhere) else error


class _Elsewhere(OSError):
    """Another process failed."""


def _client() -> Any:
    """JAX's connection between processes, which can be used from any thread, as collectives can't."""
    from jax._src import distributed

    return distributed.global_state.client


def fetch(tree: Any) -> Any:
    """Arrays, whole, on the host of every process, also those of which it holds a part only."""
    return jax.tree.map(_fetch, tree)


def _fetch(x: Any) -> Any:
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        return multihost_utils.process_allgather(x, tiled=True)
    return jax.device_get(x)


HEARTBEAT = 30
"""Seconds without a sign of life after which a process of several is given up, and the run with it."""


def started_together() -> bool:
    """Whether Slurm's srun has started several processes, or Kubernetes this one as part of an indexed job.

    Raises ValueError in the latter where JAX can't ask how many they are.
    """
    if "SLURM_STEP_NODELIST" in os.environ:
        return int(os.environ.get("SLURM_NTASKS", 1)) > 1
    if not {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= os.environ.keys():
        return False
    if importlib.util.find_spec("kubernetes") is None:
        raise ValueError(
            "this is part of an indexed Kubernetes job, without the package kubernetes that counts "
            "its parts; expected --coordinator, --processes and --process as in deploy/jobset.yaml, "
            "jax[k8s] to be installed, or --processes=1 for a run of this process alone."
        )
    return True


def join_processes(coordinator: str | None = None, count: int | None = None, index: int | None = None) -> None:
    """Make this process number `index` of `count` that make one run. Must come before JAX touches a device.

    coordinator: host:port of process 0, as all reach it. With nothing given JAX takes all from Slurm or Kubernetes. A
    process has all devices of its host, or, of several that Slurm has put on a host, the one of its number there. Waits
    until all are there; after five minutes JAX ends the process. Raises ValueError for numbers that do not fit, OSError
    where JAX can't join. A process that dies takes the others down after HEARTBEAT seconds, with its number.
    """
    given = (coordinator, count, index)
    if given == (None, None, None):
        alone = os.environ.get("SLURM_STEP_NUM_NODES") == os.environ.get("SLURM_NTASKS")
        devices = [] if alone else None  # None: as JAX finds it, which is one a process under Slurm
    elif None in given or not (coordinator.rpartition(":")[2].isdigit() and 0 <= index < count and count > 1):
        raise ValueError(
            "expected --coordinator=HOST:PORT, --processes=N of 2 or more and --process=K from 0 to N-1, "
            f"got {coordinator!r}, {count} and {index}."
        )
    else:
        devices = []
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM away and does nothing at it
    try:
        _apart(
            partial(jax.distributed.initialize, *given, local_device_ids=devices, heartbeat_timeout_seconds=HEARTBEAT)
        )
    except RuntimeError as error:
        raise OSError(f"can't join the other processes: {' '.join(str(error).split())}") from error


def _apart(call: Callable[[], None]) -> None:
    """Call it in a thread: what waits outside of Python would not be left at a signal, as a wait for a thread is."""
    failures: list[Exception] = []

    def work() -> None:
        try:
            call()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]

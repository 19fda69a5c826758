"""Runs of several processes, on one host or many; the only module that uses `jax.distributed`.

All processes execute the same host code with the same values, so that they call the same collectives in the same order.
A value that may differ between processes (a clock, a signal, the state of a disk) is decided by one process and
broadcast. With one process these functions do nothing.
"""

import contextlib
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

HEARTBEAT_SECONDS = 30
"""After this time without a heartbeat a process counts as lost, and the others end too."""
VISIBLE_SECONDS = 90
"""Time after which every host sees a file that another host has written. NFS clients cache the contents of a folder for
`acdirmin` to `acdirmax` seconds, by default 30 to 60."""
_POLL_SECONDS = 0.5
_PRIMARY_EXIT_SECONDS = 2  # the other processes are connected through the primary; they need time to report an error
_LOST_PEER_SECONDS = 45  # within this time JAX finds out which process is lost, and ends this one
_COLLECTIVE = re.compile(r"\b(Gloo|NCCL)\b")  # in the error messages of collectives


def is_multiprocess() -> bool:
    """Whether this is one of several processes. Unlike `jax.process_count` it never waits for other processes."""
    return jax.distributed.is_initialized()


def is_lost_peer(error: BaseException) -> bool:
    """Whether a collective failed because another process is lost. JAX raises ValueError or RuntimeError."""
    return isinstance(error, ValueError | RuntimeError) and bool(_COLLECTIVE.search(str(error)))


def exit_process(message: str, status: int, *, lost_peer: bool = False) -> NoReturn:
    """End this process at once, with a message on stderr. One of several processes adds its number and host.

    Safe in a signal handler. No clean-up runs: JAX's would wait for the other processes, and they for this one. The
    others end when they miss the heartbeat. lost_peer: another process is lost; wait until JAX has named it.
    """
    index = _distributed_state().process_id if is_multiprocess() else None
    if index is not None:
        message = f"process {index} on {socket.gethostname()} ends: {message}"
    with contextlib.suppress(Exception):  # a handler may have interrupted a write to the same stream
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        show_cursor = "\x1b[?25h\r" if os.isatty(1) else ""
        os.write(1, show_cursor.encode())  # a live display hides it
        os.write(2, f"{message}\n".encode())
    if lost_peer:
        time.sleep(_LOST_PEER_SECONDS)
    elif index == 0:
        time.sleep(_PRIMARY_EXIT_SECONDS)
    os._exit(status)


def is_primary() -> bool:
    """Whether this is the process that writes (process 0)."""
    return jax.process_index() == 0


def broadcast_from_primary(value: Any) -> Any:
    """The primary's JSON value in every process. Every process must call it: it is a collective."""
    if not is_multiprocess():
        return value
    data = np.frombuffer(json.dumps(value).encode(), np.uint8) if is_primary() else np.zeros(0, np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
    data = multihost_utils.broadcast_one_to_all(data if is_primary() else np.zeros(size, np.uint8))
    return json.loads(np.asarray(data, np.uint8).tobytes())


def run_on_primary(function: Callable[[], Any]) -> Any:
    """Call `function` in the primary and broadcast its result, a JSON value.

    A ValueError or OSError of the primary is raised in every process, in the others as OSError.
    """
    if not is_multiprocess():
        return function()
    value = error = None
    if is_primary():
        try:
            value = function()
        except (OSError, ValueError) as caught:
            error = caught
    described = [getattr(error, "strerror", None) or str(error), getattr(error, "errno", None)] if error else None
    value, described = broadcast_from_primary([value, described])
    if described is not None:
        message, number = described
        raise error or (OSError(message) if number is None else OSError(number, message))
    return value


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process. Every process must call it: it is a collective."""
    if not is_multiprocess():
        return flag
    return bool(multihost_utils.process_allgather(np.int32(flag)).any())


def gather_to_host(tree: Any) -> Any:
    """All arrays as complete numpy arrays in every process, also those that are sharded over processes."""
    return jax.tree.map(_gather, tree)


def _gather(x: Any) -> Any:
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        return multihost_utils.process_allgather(x, tiled=True)
    return jax.device_get(x)


def wait_until_visible(is_visible: Callable[[], bool], path: Path) -> None:
    """Wait until this process sees what the primary has written to a shared file system.

    path: for the message of the OSError that is raised after VISIBLE_SECONDS.
    """
    deadline = time.monotonic() + VISIBLE_SECONDS
    while not is_visible():
        if time.monotonic() > deadline:
            raise OSError(
                f"process {jax.process_index()} does not find {path}, which process 0 has written; choose a "
                "--workdir in a file system that all hosts share."
            )
        time.sleep(_POLL_SECONDS)


class WriteBarrier:
    """The barrier between the background writes of all processes, for Orbax's `barrier_sync_fn`.

    If a process arrives at another barrier than the others (its write failed and it gave up), all processes get an
    error at once instead of waiting for the timeout, and none waits here again.
    """

    _count = itertools.count()  # the name of a barrier can be used only once in a process

    def __init__(self):
        self.broken = False

    def __call__(self, *, key: str, timeout_ms: int) -> None:
        """Wait for all processes. Raises OSError if one is at another barrier, RuntimeError if one is lost."""
        if not is_multiprocess() or self.broken:
            return
        client, name = _distributed_state().client, f"jaxrl/barrier/{next(WriteBarrier._count)}"
        client.key_value_set(f"{name}/{jax.process_index()}", key)
        try:
            client.wait_at_barrier(name, timeout_ms)
            if len({reached for _, reached in client.key_value_dir_get(name)}) > 1:
                raise self.failure()
        except Exception:
            self.broken = True
            raise

    def failure(self) -> OSError:
        """The error of a process whose own write did not fail."""
        return _PeerFailed(errno.EIO, "another process could not write its part of a checkpoint; see its message")

    def cause(self, error: Exception) -> Exception:
        """The error of this process's own write if there was one before the barrier failed, else `error`."""
        return error.__context__ or error if isinstance(error, _PeerFailed) else error


class _PeerFailed(OSError):
    """The write of another process failed."""


def launched_by_scheduler() -> bool:
    """Whether Slurm's srun has started several processes, or Kubernetes this one as part of an indexed job.

    Raises ValueError if JAX cannot find the other processes of the Kubernetes job.
    """
    if "SLURM_STEP_NODELIST" in os.environ:
        return int(os.environ.get("SLURM_NTASKS", 1)) > 1
    if not {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= os.environ.keys():
        return False
    if importlib.util.find_spec("kubernetes") is None:
        raise ValueError(
            "this is one process of an indexed Kubernetes job, but the package kubernetes, which finds the others, is "
            "not installed; expected --coordinator, --processes and --process as in deploy/jobset.yaml, jax[k8s] to "
            "be installed, or --processes=1 for a run of this process alone."
        )
    return True


def join_processes(coordinator: str | None = None, count: int | None = None, index: int | None = None) -> None:
    """Make this process number `index` of the `count` processes of a run. Call it before JAX initializes a backend.

    coordinator: host:port of process 0, as all processes reach it. Without arguments JAX takes all three from Slurm or
    Kubernetes. A process uses all devices of its host; if Slurm has put several processes on a host, each uses the
    device of its local number. Waits for all processes; after five minutes JAX ends this one. If a process dies, the
    others end after HEARTBEAT_SECONDS and name it. Raises ValueError for numbers out of range, OSError if JAX fails.
    """
    given = (coordinator, count, index)
    if given == (None, None, None):
        one_per_host = os.environ.get("SLURM_STEP_NUM_NODES") == os.environ.get("SLURM_NTASKS")
        devices = [] if one_per_host else None  # None: JAX's default, one device a process under Slurm
    elif None in given or not (coordinator.rpartition(":")[2].isdigit() and 0 <= index < count and count > 1):
        raise ValueError(
            "expected --coordinator=HOST:PORT, --processes=N of 2 or more and --process=K from 0 to N-1, "
            f"got {coordinator!r}, {count} and {index}."
        )
    else:
        devices = []
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it catches SIGTERM and ignores it
    initialize = partial(
        jax.distributed.initialize,
        *given,
        local_device_ids=devices,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )
    try:
        _call_in_thread(initialize)
    except RuntimeError as error:
        raise OSError(f"cannot join the other processes: {' '.join(str(error).split())}") from error


def _call_in_thread(function: Callable[[], None]) -> None:
    """Call `function` in a thread and wait. So signals are handled meanwhile; no handler runs while C++ code waits."""
    errors: list[Exception] = []

    def call() -> None:
        try:
            function()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def _distributed_state() -> Any:
    """JAX's connection between processes: its id, and a client that any thread may use. There is no public API."""
    from jax._src import distributed

    return distributed.global_state

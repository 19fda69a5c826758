"""The devices of this process and the cache of compiled programs; must be set before JAX touches a device."""

import importlib.util
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax

from jaxrl.running.heap import keep_memory

MEMORY_SHARE = 0.92
"""Share of a GPU's memory for arrays and programs' temporaries. JAX takes 0.75 unless told otherwise, too little for a
7B model on an A100; the rest is for CUDA itself, NCCL's buffers and kernels."""
HEARTBEAT = 30
"""Seconds without a sign of life after which a process of several is given up, and the run with it."""
_SHARE_VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_PREALLOCATE",
                    "XLA_PYTHON_CLIENT_ALLOCATOR")


def prepare_devices(devices: int, compile_cache: str, sampling: int = 0) -> None:
    """So many virtual CPU devices (0: the machine as it is), and compiled programs kept in a folder ("": not kept).

    sampling: as `sampling_devices` will be asked for them.
    """
    wanted = max(devices, sampling_count(sampling))
    if wanted > max(jax.config.jax_num_cpu_devices, 0):
        jax.config.update("jax_num_cpu_devices", wanted)
    if devices > 1:
        _keep_devices_moving()
    if not any(name in os.environ for name in _SHARE_VARIABLES):  # what the user has said stands
        os.environ[_SHARE_VARIABLES[0]] = str(MEMORY_SHARE)
    keep_memory()
    if compile_cache:
        jax.config.update("jax_compilation_cache_dir", str(Path(compile_cache).expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def started_together() -> bool:
    """Whether Slurm's srun has started several processes, or Kubernetes this one as part of an indexed job.

    Raises ValueError in the latter where JAX can't ask how many they are.
    """
    if "SLURM_STEP_NODELIST" in os.environ:
        return int(os.environ.get("SLURM_NTASKS", 1)) > 1
    if not {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= os.environ.keys():
        return False
    if importlib.util.find_spec("kubernetes") is None:
        raise ValueError("this is part of an indexed Kubernetes job, without the package kubernetes that counts "
                         "its parts; expected --coordinator, --processes and --process as in deploy/jobset.yaml, "
                         "jax[k8s] to be installed, or --processes=1 for a run of this process alone.")
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
        raise ValueError("expected --coordinator=HOST:PORT, --processes=N of 2 or more and --process=K from 0 to N-1, "
                         f"got {coordinator!r}, {count} and {index}.")
    else:
        devices = []
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM away and does nothing at it
    try:
        _apart(partial(jax.distributed.initialize, *given, local_device_ids=devices,
                       heartbeat_timeout_seconds=HEARTBEAT))
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


def learning_devices(count: int) -> list[jax.Device]:
    """The first `count` virtual devices of a CPU; for 0, on other hardware and in several processes all there are."""
    return jax.devices()[:count] if count and _one_cpu() else jax.devices()


def sampling_devices(count: int) -> list[jax.Device] | None:
    """So many virtual devices of a CPU, -1: one a core; None for 0, on other hardware and in several processes: those
    that learn.

    A core of its own for every device makes a decode step's many small products twice as fast on two cores, which one
    device can't share out. No device waits for another here, so nothing locks up (see `_keep_devices_moving`).
    """
    return jax.devices()[: sampling_count(count)] if count and _one_cpu() else None


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def sampling_count(sampling: int) -> int:
    """The number itself; -1: one a core."""
    return cores() if sampling == -1 else sampling


def _one_cpu() -> bool:
    return jax.devices()[0].platform == "cpu" and jax.process_count() == 1


def _keep_devices_moving() -> None:
    """One program at a time, and no kernel split over threads: virtual CPU devices lock up less often then.

    They share pools of as many threads as there are cores, and a device that waits for the others in an all-reduce
    holds some of them. Seen: about once in a thousand all-reduces one of two devices never arrived, and XLA ended the
    process after a minute; neither setting was a cure by itself or both together (LOG.md). What a laptop runs therefore
    has one device; several are for tests of sharding.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()

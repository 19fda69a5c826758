"""The devices of this process and the cache of compiled programs; must be set before JAX touches a device."""

import os
from pathlib import Path

import jax

from jaxrl.runtime.cpu import keep_memory

MEMORY_SHARE = 0.92
"""Share of a GPU's memory for arrays and programs' temporaries. JAX takes 0.75 unless told otherwise, too little for a
7B model on an A100; the rest is for CUDA itself, NCCL's buffers and kernels."""
_SHARE_VARIABLES = (
    "XLA_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
)


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

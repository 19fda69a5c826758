"""JAX on a CPU: virtual devices, and an allocator that keeps freed memory."""

import ctypes
import os
import platform
from importlib.metadata import entry_points

import jax

from jaxrl.runtime.xla_flags import add_xla_flags

# Parameters of mallopt(3), glibc.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def prepare_cpu(devices: int, sampling: int = 0) -> None:
    """Set up virtual devices and the allocator; without effect where JAX runs on another platform.

    devices: virtual devices that learn together (0: one). sampling: devices that only sample (see `sampling_count`).
    Must be called before JAX initializes a backend.
    """
    required = max(devices, sampling_count(sampling))
    if required > max(jax.config.jax_num_cpu_devices, 0):
        jax.config.update("jax_num_cpu_devices", required)
    if devices > 1:
        _avoid_collective_deadlocks()
    keep_memory()


def has_virtual_devices() -> bool:
    """Whether the devices of JAX are virtual devices of a CPU in a single process."""
    return jax.devices()[0].platform == "cpu" and jax.process_count() == 1


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def sampling_count(sampling: int) -> int:
    """Virtual devices that sample; -1 means one per core.

    With a core for each device, the many small products of a decode step run twice as fast on two cores; a single
    device cannot distribute them. These devices never wait for each other, so they cannot deadlock.
    """
    return cores() if sampling == -1 else sampling


def _avoid_collective_deadlocks() -> None:
    """Run one program at a time and each kernel in one thread, so that virtual devices deadlock less often.

    The devices share thread pools with one thread per core, and a device that waits in an all-reduce holds some of the
    threads. In about one of a thousand all-reduces one of two devices never arrived, and XLA ended the process after a
    minute; these settings make that rarer but do not prevent it. So use one device, and several only to test sharding.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    add_xla_flags("--xla_cpu_multi_thread_eigen=false")


def keep_memory() -> bool:
    """Make malloc keep freed memory for reuse. Returns whether that was done.

    Must be called before JAX initializes a backend. A compiled program allocates its temporaries as one block at each
    call. By default glibc maps blocks above 32 MiB from the system and unmaps them when they are freed, so the system
    zeroes every page again at each call, which took a quarter of an update's time. With this setting all blocks are in
    one arena that never shrinks, so the process keeps its peak memory.

    Done only with glibc and if JAX runs on the CPU: with a GPU, host memory is only for short-lived copies. Settings of
    malloc in the environment take precedence.
    """
    if _malloc_is_configured() or not _on_cpu() or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # One arena, because the others cannot hold blocks above 64 MiB and map them from the system as well.
    return all(mallopt(name, value) == 1 for name, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)))


def _malloc_is_configured() -> bool:
    """Whether the environment configures malloc."""
    return "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(x.startswith("MALLOC_") for x in os.environ)


def _on_cpu() -> bool:
    """Whether JAX will run on the CPU: as configured, or because no other platform's plugin is installed."""
    platforms = jax.config.jax_platforms
    return platforms.split(",")[0] == "cpu" if platforms else not entry_points(group="jax_plugins")

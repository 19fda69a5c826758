"""Memory that XLA's CPU programs give back stays with the process, for their next call."""

import ctypes
import os
import platform
from importlib.metadata import entry_points

import jax

# Parameters of mallopt(3), glibc.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_memory() -> bool:
    """Have freed memory kept and used again; whether that was done. Must come before JAX touches a device.

    A compiled program takes its temporaries in one piece at each call. glibc gets pieces over 32 MiB from the system
    and gives them back, so at each call every page was new, and zeroed: a quarter of an update's time (LOG.md). Now all
    lie in one heap that never shrinks: the process holds what it has held at most.

    Done with glibc where JAX runs on the CPU; with a GPU the host's memory is for copies that come and go. What the
    user has set for malloc in the environment stands.
    """
    if _told() or not _on_cpu() or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # A single arena, as others can't hold pieces over 64 MiB, and get them from the system all the same.
    return all(mallopt(name, value) == 1 for name, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)))


def _told() -> bool:
    """Whether the user has said how malloc is to be."""
    return "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(x.startswith("MALLOC_") for x in os.environ)


def _on_cpu() -> bool:
    """Whether JAX will run on the CPU: as it was told, or because no other platform's plugin is installed."""
    told = jax.config.jax_platforms
    return told.split(",")[0] == "cpu" if told else not entry_points(group="jax_plugins")

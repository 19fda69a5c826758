"""The devices of this process and the cache of compiled programs; must be set before JAX touches a device."""

import os
from pathlib import Path

import jax


def prepare_devices(devices: int, compile_cache: str) -> None:
    """So many virtual CPU devices (0: the machine as it is), and compiled programs kept in a folder ("": not kept)."""
    if devices:
        jax.config.update("jax_num_cpu_devices", devices)
    if devices > 1:
        _keep_devices_moving()
    if compile_cache:
        jax.config.update("jax_compilation_cache_dir", str(Path(compile_cache).expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _keep_devices_moving() -> None:
    """One program at a time, and no kernel split over threads, so that virtual CPU devices never wait in a circle.

    They share two pools of as many threads as there are cores. A device that waits for the others in an all-reduce
    holds a thread of each; with several programs under way, or kernels split over the pool, the others may get none.
    XLA then ends the process after a minute: seen in one of a thousand micro-batches (LOG.md). As there are as many
    devices as cores, nothing is lost.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()

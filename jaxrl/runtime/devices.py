"""The devices of this process and the compilation cache; set up before JAX initializes a backend."""

import os
from pathlib import Path

import jax

from jaxrl.runtime.cpu import has_virtual_devices, prepare_cpu, sampling_count

MEMORY_SHARE = 0.92
"""Share of a GPU's memory for arrays and temporaries of programs. JAX's default of 0.75 is too little for a 7B model on
an A100; the remainder is for CUDA, NCCL's buffers and kernels."""
_SHARE_VARIABLES = (
    "XLA_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
)


def prepare_devices(devices: int, compile_cache: str, sampling: int = 0) -> None:
    """Set up devices and the compilation cache.

    devices: virtual CPU devices that learn (0: the hardware as it is). compile_cache: folder for compiled programs ("":
    none). sampling: virtual CPU devices that sample, as in `sampling_devices`.
    """
    prepare_cpu(devices, sampling)
    if not any(name in os.environ for name in _SHARE_VARIABLES):  # settings of the user take precedence
        os.environ[_SHARE_VARIABLES[0]] = str(MEMORY_SHARE)
    if compile_cache:
        jax.config.update("jax_compilation_cache_dir", str(Path(compile_cache).expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def learning_devices(count: int) -> list[jax.Device]:
    """The first `count` virtual CPU devices; all devices for 0, on other hardware and in a multi-process run."""
    return jax.devices()[:count] if count and has_virtual_devices() else jax.devices()


def sampling_devices(count: int) -> list[jax.Device] | None:
    """The first `count` virtual CPU devices (-1: one per core).

    None (sample on the devices that learn) for 0, on other hardware and in a multi-process run.
    """
    return jax.devices()[: sampling_count(count)] if count and has_virtual_devices() else None

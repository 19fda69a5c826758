"""Devices that programs can be compiled for without being present."""

import os
from importlib.util import find_spec
from pathlib import Path

import jax
from jax.experimental import topologies

from jaxrl.runtime.hardware import ACCELERATORS
from jaxrl.runtime.xla_flags import add_xla_flags


def has_gpu_compiler() -> bool:
    """Whether XLA's compiler for CUDA is installed (extras `cuda12` and `cuda13`)."""
    return bool(find_spec("jax_plugins")) and any(find_spec(f"jax_plugins.xla_cuda{major}") for major in (12, 13))


def compile_only_devices(name: str, count: int, hosts: int = 1) -> list[jax.Device]:
    """Devices, split evenly over `hosts`, for which programs can be compiled but not executed.

    Must be called before any other use of a device in the process, and restricts the process to the CPU. Raises
    ValueError for an unknown name or hosts that do not divide the count, RuntimeError if XLA's compiler for CUDA is not
    installed.
    """
    if name not in ACCELERATORS:
        raise ValueError(f"expected one of {', '.join(ACCELERATORS)} as the device, got {name!r}.")
    if count % hosts:
        raise ValueError(f"expected a number of hosts that divides the {count} devices, got {hosts}.")
    if not has_gpu_compiler():
        raise RuntimeError("XLA's compiler for CUDA is not installed; run pip install 'jaxrl[cuda12]' (no GPU needed).")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    nvcc = [Path(path) / "cuda_nvcc" for path in find_spec("nvidia").submodule_search_locations]
    # Kernels cannot be timed without a GPU, and ptxas is in the folder where pip installed it.
    add_xla_flags("--xla_gpu_autotune_level=0", f"--xla_gpu_cuda_data_dir={nvcc[0]}")
    jax.config.update("jax_platforms", "cpu")
    topology = topologies.get_topology_desc(
        "", platform="cuda", target_config=ACCELERATORS[name].target(), topology=f"1x{hosts}x{count // hosts}"
    )
    return list(topology.devices)

"""Devices to compile for that need not be present."""

import os
from importlib.util import find_spec
from pathlib import Path

import jax
from jax.experimental import topologies

from jaxrl.runtime.hardware import ACCELERATORS


def compiler_at_hand() -> bool:
    """Whether XLA's compiler for CUDA is installed (the extras `cuda12` and `cuda13`)."""
    return bool(find_spec("jax_plugins")) and any(find_spec(f"jax_plugins.xla_cuda{major}") for major in (12, 13))


def compile_only_devices(name: str, count: int, hosts: int = 1) -> list[jax.Device]:
    """Devices, evenly on so many hosts, that programs can be compiled for; nothing can be put on them or run.

    Must come before any other use of a device in the process, which it keeps on the CPU. Raises ValueError for an
    unknown name or hosts that don't divide the count, RuntimeError where XLA's compiler for CUDA is not installed.
    """
    if name not in ACCELERATORS:
        raise ValueError(f"expected a device out of {', '.join(ACCELERATORS)}, got {name!r}.")
    if count % hosts:
        raise ValueError(f"expected hosts that divide the {count} devices, got {hosts}.")
    if not compiler_at_hand():
        raise RuntimeError("XLA's compiler for CUDA is not installed: pip install 'jaxrl[cuda12]' (no GPU needed).")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    flags = os.environ.get("XLA_FLAGS", "")
    nvcc = [Path(place) / "cuda_nvcc" for place in find_spec("nvidia").submodule_search_locations]
    # Without a GPU there is nothing to time kernels on, and ptxas has to be looked for where pip has put it.
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_autotune_level=0 --xla_gpu_cuda_data_dir={nvcc[0]}".strip()
    jax.config.update("jax_platforms", "cpu")
    topology = topologies.get_topology_desc(
        "", platform="cuda", target_config=ACCELERATORS[name].target(), topology=f"1x{hosts}x{count // hosts}"
    )
    return list(topology.devices)

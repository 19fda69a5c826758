"""GPUs that programs can be compiled for without owning one."""

import dataclasses
import os
from importlib.util import find_spec
from pathlib import Path

import jax
from jax.experimental import topologies

_DESCRIPTION = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: {shared_memory_per_core} threads_per_core_limit: 2048
  core_count: {cores} fpus_per_core: {fpus_per_core}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth} l2_cache_size: {l2_cache} clock_rate_ghz: {clock_rate} device_memory_size: {memory}
  shared_memory_per_block_optin: {shared_memory_per_block} cuda_compute_capability {{ major: {capability} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
runtime_version {{ major: 12 minor: 8 patch: 0 }}
device_description_str: "{description}"
"""


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A GPU as XLA's compiler wants it described."""

    description: str
    memory: int  # bytes that a program can use
    bandwidth: int  # of the memory, bytes a second
    capability: int  # major number
    cores: int
    fpus_per_core: int
    clock_rate: float  # GHz
    l2_cache: int  # bytes
    shared_memory_per_core: int  # bytes
    shared_memory_per_block: int  # bytes

    def target(self) -> str:
        """What XLA wants to know of the GPU it compiles for (a GpuTargetConfigProto as text)."""
        return _DESCRIPTION.format(**dataclasses.asdict(self))


ACCELERATORS: dict[str, Accelerator] = {
    "A100-80GB": Accelerator("NVIDIA A100-SXM4-80GB", 84_987_740_160, 2_039_000_000_000, 8, 108, 64, 1.41, 41_943_040,
                             167_936, 166_912),
    "H200": Accelerator("NVIDIA H200", 150_754_820_096, 4_800_000_000_000, 9, 132, 128, 1.98, 52_428_800, 233_472,
                        232_448),
}


def compiler_at_hand() -> bool:
    """Whether XLA's compiler for CUDA is installed (the extras `cuda12` and `cuda13`)."""
    return any(find_spec(f"jax_plugins.xla_cuda{major}") for major in (12, 13))


def compile_only_devices(name: str, count: int) -> list[jax.Device]:
    """Devices of one host that programs can be compiled for; nothing can be put on them or run.

    Must come before any other use of a device in the process, which it keeps on the CPU. Raises ValueError for an
    unknown name, RuntimeError where XLA's compiler for CUDA is not installed.
    """
    if name not in ACCELERATORS:
        raise ValueError(f"expected a device out of {', '.join(ACCELERATORS)}, got {name!r}.")
    if not compiler_at_hand():
        raise RuntimeError("XLA's compiler for CUDA is not installed: pip install 'jaxrl[cuda12]' (no GPU needed).")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    flags = os.environ.get("XLA_FLAGS", "")
    nvcc = [Path(place) / "cuda_nvcc" for place in find_spec("nvidia").submodule_search_locations]
    # Without a GPU there is nothing to time kernels on, and ptxas has to be looked for where pip has put it.
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_autotune_level=0 --xla_gpu_cuda_data_dir={nvcc[0]}".strip()
    jax.config.update("jax_platforms", "cpu")
    topology = topologies.get_topology_desc("", platform="cuda", target_config=ACCELERATORS[name].target(),
                                            topology=f"1x1x{count}")
    return list(topology.devices)

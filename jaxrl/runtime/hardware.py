"""GPUs that programs can be compiled for without owning one, their peak rates, and the memory of present devices."""

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import jax

from jaxrl.runtime.devices import MEMORY_SHARE

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

# Dense bfloat16 (no sparsity), from the vendors' data sheets, by prefix of JAX's `device_kind`. Longer prefixes first.
PEAK_FLOPS: tuple[tuple[str, float], ...] = (
    ("NVIDIA A100", 312e12),
    ("NVIDIA H100 PCIe", 756e12),
    ("NVIDIA H100 NVL", 835e12),
    ("NVIDIA H100", 989.4e12),
    ("NVIDIA H200", 989.4e12),
    ("NVIDIA B200", 2250e12),
    ("NVIDIA L40S", 362e12),
    ("NVIDIA L4", 121e12),
    ("NVIDIA A10G", 70e12),
)


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Peak floating-point operations per second of a device by its data sheet; None if it is not in the table."""
    if dtype != "bfloat16":
        return None
    return next((peak for name, peak in PEAK_FLOPS if device_kind.startswith(name)), None)


@dataclasses.dataclass(frozen=True)
class PeakRates:
    """Peak rates of one GPU in a host of eight, from the vendor's data sheets."""

    matmul: float  # floating-point operations per second, bfloat16, dense
    memory: float  # bytes per second
    link: float  # bytes per second to GPUs of the same host, one direction
    network: float  # bytes per second to other hosts, one direction: a GPU's share of the host's adapters
    source: str


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A GPU as XLA's compiler describes it (see openxla/xla, xla/backends/gpu/target_config/specs)."""

    description: str
    memory: int  # bytes
    bandwidth: int  # of the memory, bytes per second
    capability: int  # major number
    cores: int
    fpus_per_core: int
    clock_rate: float  # GHz
    l2_cache: int  # bytes
    shared_memory_per_core: int  # bytes
    shared_memory_per_block: int  # bytes
    peak_rates: PeakRates

    def target(self) -> str:
        """The compilation target for XLA: a GpuTargetConfigProto in text format."""
        return _DESCRIPTION.format(**vars(self))


def _a100(memory: int, bandwidth: int, size: str) -> Accelerator:
    sheets = (
        "NVIDIA A100 data sheet (SXM: 312 TFLOPS bfloat16, NVLink 600 GB/s both ways); "
        "NVIDIA DGX A100 data sheet (8 x 200 Gb/s)"
    )
    description = f"NVIDIA A100-SXM4-{size}"
    rates = PeakRates(peak_flops(description, "bfloat16"), bandwidth, 300e9, 25e9, sheets)
    return Accelerator(description, memory, bandwidth, 8, 108, 64, 1.41, 41_943_040, 167_936, 166_912, rates)


def _hopper(description: str, memory: int, bandwidth: int, name: str) -> Accelerator:
    sheets = (
        f"NVIDIA {name} data sheet (SXM: 1,979 TFLOPS bfloat16 with sparsity, half of it dense; NVLink 900 GB/s "
        f"both ways); NVIDIA DGX {name} data sheet (8 x 400 Gb/s)"
    )
    rates = PeakRates(peak_flops(description, "bfloat16"), bandwidth, 450e9, 50e9, sheets)
    return Accelerator(description, memory, bandwidth, 9, 132, 128, 1.98, 52_428_800, 233_472, 232_448, rates)


ACCELERATORS: dict[str, Accelerator] = {
    "A100-40GB": _a100(42_331_013_120, 1_555_000_000_000, "40GB"),
    "A100-80GB": _a100(84_987_740_160, 2_039_000_000_000, "80GB"),
    "H100-80GB": _hopper("NVIDIA H100 80GB HBM3", 84_942_979_072, 3_350_000_000_000, "H100"),
    "H200": _hopper("NVIDIA H200", 150_754_820_096, 4_800_000_000_000, "H200"),
}


GPUS_PER_HOST = 8  # at most


@dataclasses.dataclass(frozen=True)
class Devices:
    """`count` devices of one kind, evenly distributed over `hosts`.

    memory: bytes per device for arrays and programs; 0 if unknown. accelerator: None for CPUs and GPUs that are not in
    ACCELERATORS.
    """

    name: str
    count: int
    hosts: int
    memory: int
    accelerator: Accelerator | None

    @property
    def on_cpu(self) -> bool:
        """Whether they are virtual CPU devices."""
        return self.name == "cpu"

    def __str__(self) -> str:
        hosts = f" in {self.hosts} hosts" if self.hosts > 1 else ""
        return f"{self.count} x {self.name}{hosts}"


def check_attention(attention: str, devices: Devices) -> None:
    """Raises ValueError for cuDNN's attention without a GPU. Call it before the first rollout is sampled."""
    if devices.on_cpu and attention == "cudnn":
        raise ValueError(
            "attention: expected plain on a CPU, which has no cuDNN, got cudnn; set --config.attention=plain, or take "
            "the size :tiny, which is made for a CPU."
        )


def read_devices(text: str, cpus: int = 1, hosts: int = 0) -> Devices:
    """Parse `4xA100-80GB`, or `cpu` for `cpus` virtual devices. hosts: 0 for as few as possible.

    Raises ValueError for anything else.
    """
    if text == "cpu":
        return Devices("cpu", cpus, 1, host_memory() // cpus, None)
    match = re.fullmatch(r"([1-9]\d*)x(.+)", text)
    if not match or match[2] not in ACCELERATORS:
        raise ValueError(
            f"--devices: expected cpu or COUNTxNAME with a name of {', '.join(ACCELERATORS)}, for example "
            f"4xA100-80GB, got {text!r}."
        )
    count, accelerator = int(match[1]), ACCELERATORS[match[2]]
    hosts = hosts or math.ceil(count / GPUS_PER_HOST)
    if count % hosts:
        raise ValueError(f"--hosts: expected a divisor of the {count} devices, got {hosts}.")
    return Devices(match[2], count, hosts, int(accelerator.memory * MEMORY_SHARE), accelerator)


def present_devices(devices: Sequence[jax.Device]) -> Devices:
    """Describe the devices of all processes. Each process counts as a host. memory: as this process sees it."""
    kind, hosts = devices[0].device_kind, jax.process_count()
    if devices[0].platform == "cpu":
        return Devices("cpu", len(devices), hosts, host_memory() * hosts // len(devices), None)
    name = next((name for name, known in ACCELERATORS.items() if known.description == kind), kind)
    stats = jax.local_devices()[0].memory_stats() or {"bytes_limit": 0}  # None: an allocator without statistics
    return Devices(name, len(devices), hosts, stats["bytes_limit"], ACCELERATORS.get(name))


def host_memory() -> int:
    """Bytes of this machine's memory, or the lower limit of the container (cgroup v2)."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and limit.read_text().strip().isdigit():
        limits.append(int(limit.read_text()))
    return min(limits)

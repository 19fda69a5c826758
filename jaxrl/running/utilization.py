"""How much of the devices' arithmetic an update uses (MFU)."""

# Dense bfloat16 operations a second, from the makers' data sheets (no sparsity), by the beginning of JAX's device_kind.
# A longer name goes before a shorter one that it begins with.
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
    """Operations a second that one such device is sold with; None where this table does not know them."""
    if dtype != "bfloat16":
        return None
    return next((peak for name, peak in PEAK_FLOPS if device_kind.startswith(name)), None)

"""How much of the devices' arithmetic an update uses (MFU)."""

from collections.abc import Sequence

import numpy as np

from models.config import Qwen2Config

# Dense bfloat16 operations a second, from the makers' data sheets (no sparsity), by the beginning of JAX's device_kind.
# A longer name goes before a shorter one that it begins with.
PEAK_FLOPS: tuple[tuple[str, float], ...] = (
    ("NVIDIA A100", 312e12),
    ("NVIDIA H100 PCIe", 756e12),
    ("NVIDIA H100 NVL", 835e12),
    ("NVIDIA H100", 989e12),
    ("NVIDIA H200", 989e12),
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


def update_flops(config: Qwen2Config, lengths: Sequence[int] | np.ndarray) -> float:
    """Operations of one forward and backward pass over rows of these lengths: those that the model needs.

    Two for each parameter of a matrix and token (the head's included, the embedding's lookup not), and in each layer
    and query head 4 H for each pair of a token and one before it; three times that with the backward pass. What is
    computed again to save memory, and padding, do not count. Source: Chowdhery et al. (2022), PaLM, appendix B, with
    the causal half of the attention matrix that is computed.
    """
    lengths = np.asarray(lengths, np.float64)
    width, heads, head = config.hidden_size, config.num_attention_heads, config.head_dim
    attention = width * head * (2 * heads + 2 * config.num_key_value_heads)
    layer = attention + 3 * width * config.intermediate_size
    matrices = config.num_hidden_layers * layer + width * config.vocab_size
    pairs = (lengths * (lengths + 1) / 2).sum()
    return float(3 * (2 * matrices * lengths.sum() + config.num_hidden_layers * heads * 4 * head * pairs))

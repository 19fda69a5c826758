"""Model FLOPs, computed from the configuration. Recomputation and padding are not counted."""

import numpy as np

from models.config import Qwen2Config


def forward_flops(config: Qwen2Config, lengths: np.ndarray, *, head: bool = True) -> float:
    """FLOPs of one forward pass over rows of `lengths` [B] tokens; a multiply-add counts as two.

    Counts the matrix products with weights, and causal attention (token t attends to t + 1 keys). Norms, rotary
    embeddings and softmax are omitted, as usual. head: whether logits are computed for all tokens. A backward pass
    costs twice as much. Source: Kaplan et al. 2020, arXiv 2001.08361, table 1.
    """
    c, lengths = config, np.asarray(lengths, np.float64)
    projections = c.hidden_size * c.head_dim * 2 * (c.num_attention_heads + c.num_key_value_heads)
    layer = projections + 3 * c.hidden_size * c.intermediate_size
    weights = c.num_hidden_layers * layer + (c.vocab_size * c.hidden_size if head else 0)
    pairs = (lengths * (lengths + 1) / 2).sum()
    attention = 2 * c.num_hidden_layers * c.num_attention_heads * c.head_dim * pairs
    return float(2 * (weights * lengths.sum() + attention))

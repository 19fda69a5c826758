"""Parameter trees: stacked layers for training, one subtree per layer for decoding."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from models.config import Qwen2Config

Params = Mapping[str, Any]


def head_kernel(params: Params, config: Qwen2Config) -> Float[Array, "V D"]:
    """The matrix of the head: logits are `einsum("btd,vd->btv", hidden, kernel)`."""
    return params["embed" if config.tie_word_embeddings else "lm_head"]["embedding"]


def unstack(params: Params, layers: int) -> dict[str, Any]:
    """Scanned parameters to unrolled ones (`layers` to `layers_0`, ...). Exact inverse of `stack`."""
    others = {name: value for name, value in params.items() if name != "layers"}
    return others | {f"layers_{i}": jax.tree.map(lambda x, i=i: x[i], params["layers"]) for i in range(layers)}


def stack(params: Params, layers: int) -> dict[str, Any]:
    """Unrolled parameters to scanned ones. Exact inverse of `unstack`."""
    others = {name: value for name, value in params.items() if not name.startswith("layers_")}
    each = [params[f"layers_{i}"] for i in range(layers)]
    return others | {"layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)}

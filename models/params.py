"""Parameter trees: stacked layers for training, one subtree per layer for decoding."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from models.config import Qwen2Config

Params = Mapping[str, Any]


def head_kernel(params: Params, config: Qwen2Config) -> Float[Array, "V D"]:
    """The matrix that turns hidden states into logits: `einsum("btd,vd->btv", hidden, kernel)`."""
    return params["embed" if config.tie_word_embeddings else "lm_head"]["embedding"]


def unstack(params: Params, layers: int) -> dict[str, Any]:
    """Scanned parameters -> unrolled ones (`layers` -> `layers_0`, ...). Exact inverse of `stack`."""
    rest = {name: value for name, value in params.items() if name != "layers"}
    return rest | {f"layers_{i}": jax.tree.map(lambda x, i=i: x[i], params["layers"]) for i in range(layers)}


def stack(params: Params, layers: int) -> dict[str, Any]:
    """Unrolled parameters -> scanned ones. Exact inverse of `unstack`."""
    rest = {name: value for name, value in params.items() if not name.startswith("layers_")}
    each = [params[f"layers_{i}"] for i in range(layers)]
    return rest | {"layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)}

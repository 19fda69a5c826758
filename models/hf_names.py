"""The mapping between this project's parameter paths and Hugging Face's tensor names, and checks of both sides."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike

from models.config import Qwen2Config
from models.qwen2 import Qwen2
from models.safetensors_file import DTYPES, TensorEntry, map_tensor

HF_NAMES = {
    "embed/embedding": "model.embed_tokens.weight",
    "layers/input_norm/scale": "model.layers.{}.input_layernorm.weight",
    "layers/attention/query/kernel": "model.layers.{}.self_attn.q_proj.weight",
    "layers/attention/query/bias": "model.layers.{}.self_attn.q_proj.bias",
    "layers/attention/query_norm/scale": "model.layers.{}.self_attn.q_norm.weight",
    "layers/attention/key/kernel": "model.layers.{}.self_attn.k_proj.weight",
    "layers/attention/key/bias": "model.layers.{}.self_attn.k_proj.bias",
    "layers/attention/key_norm/scale": "model.layers.{}.self_attn.k_norm.weight",
    "layers/attention/value/kernel": "model.layers.{}.self_attn.v_proj.weight",
    "layers/attention/value/bias": "model.layers.{}.self_attn.v_proj.bias",
    "layers/attention/output/kernel": "model.layers.{}.self_attn.o_proj.weight",
    "layers/post_norm/scale": "model.layers.{}.post_attention_layernorm.weight",
    "layers/mlp/gate/kernel": "model.layers.{}.mlp.gate_proj.weight",
    "layers/mlp/up/kernel": "model.layers.{}.mlp.up_proj.weight",
    "layers/mlp/down/kernel": "model.layers.{}.mlp.down_proj.weight",
    "final_norm/scale": "model.norm.weight",
    "lm_head/embedding": "lm_head.weight",
}
"""Parameter path -> Hugging Face name, with `{}` for the layer. Kernels are [in, out] here, [out, in] in the files."""
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


class TensorSpec(NamedTuple):
    """A Hugging Face tensor: parameter path, layer (None: the leaf is not stacked) and shape in the file."""

    path: str
    layer: int | None
    shape: tuple[int, ...]

    @property
    def transposed(self) -> bool:
        return self.path.endswith("/kernel")


@functools.cache
def _leaves(config: Qwen2Config, dtype: np.dtype) -> dict[str, Any]:
    row, lengths = jax.ShapeDtypeStruct((1, 1), jnp.int32), jax.ShapeDtypeStruct((1,), jnp.int32)
    init = functools.partial(Qwen2(config, param_dtype=dtype).init, jax.random.key(0))
    return flatten_dict(nn.meta.unbox(jax.eval_shape(init, row, row, lengths)["params"]), sep="/")


def abstract_params(config: Qwen2Config, dtype: DTypeLike = jnp.float32) -> dict[str, Any]:
    """The scanned parameter tree as `jax.ShapeDtypeStruct` leaves; allocates nothing."""
    return unflatten_dict(_leaves(config, jnp.dtype(dtype)), sep="/")


def tensor_specs(config: Qwen2Config) -> dict[str, TensorSpec]:
    """The tensors of a checkpoint by Hugging Face name: embedding, layers in order, final norm, head."""
    leaves = _leaves(config, jnp.dtype(jnp.float32))
    specs: dict[str, TensorSpec] = {}
    for layer in range(config.num_hidden_layers):
        for path, leaf in leaves.items():
            if path.startswith("layers/"):
                shape = leaf.shape[:0:-1] if path.endswith("/kernel") else leaf.shape[1:]
                specs[HF_NAMES[path].format(layer)] = TensorSpec(path, layer, shape)
    tops = {
        HF_NAMES[path]: TensorSpec(path, None, leaf.shape)
        for path, leaf in leaves.items()
        if not path.startswith("layers/")
    }
    first = {EMBEDDING: tops.pop(EMBEDDING)}
    return first | specs | tops


def _same(one: TensorEntry, other: TensorEntry) -> bool:
    same_kind = (one.code, one.shape) == (other.code, other.shape)
    return same_kind and np.array_equal(map_tensor(one).view(np.uint8), map_tensor(other).view(np.uint8))


def check_entries(
    folder: str | Path, entries: Mapping[str, TensorEntry], specs: Mapping[str, TensorSpec]
) -> dict[str, TensorEntry]:
    """The entries for `specs`; a stored copy of a tied head is dropped.

    Raises ValueError that lists missing and unexpected tensors, wrong shapes and dtypes, and for a tied head that
    differs from the embedding.
    """
    entries = dict(entries)
    if HEAD in entries and HEAD not in specs and EMBEDDING in entries:
        if not _same(entries[HEAD], entries[EMBEDDING]):
            raise ValueError(
                f"expected equal {HEAD} and {EMBEDDING} in {folder}, whose config.json ties them; "
                "set tie_word_embeddings to false in config.json or remove the tensor."
            )
        entries.pop(HEAD)
    wrong = [f"missing {name}" for name in specs if name not in entries]
    wrong += [f"unexpected {name}" for name in entries if name not in specs]
    for name, entry in entries.items():
        if name in specs and entry.shape != specs[name].shape:
            wrong.append(f"{name} has shape {list(entry.shape)}, expected {list(specs[name].shape)}")
        if entry.code not in DTYPES:
            wrong.append(f"{name} is stored as {entry.code}, expected one of {', '.join(DTYPES)}")
    if wrong:
        raise ValueError(
            f"the tensors in {folder} do not match its config.json: {'; '.join(wrong)}. "
            "Use config and weights of the same model."
        )
    return entries


def check_params(params: Mapping[str, Any], config: Qwen2Config) -> dict[str, Any]:
    """The leaves by path. Raises ValueError that lists missing and unexpected leaves and wrong shapes."""
    leaves: dict[str, Any] = flatten_dict(dict(params), sep="/")  # pyright: ignore[reportAssignmentType]
    expected = _leaves(config, jnp.dtype(jnp.float32))
    wrong = [f"missing {path}" for path in expected if path not in leaves]
    wrong += [f"unexpected {path}" for path in leaves if path not in expected]
    wrong += [
        f"{path} has shape {list(leaf.shape)}, expected {list(expected[path].shape)}"
        for path, leaf in leaves.items()
        if path in expected and leaf.shape != expected[path].shape
    ]
    if wrong:
        raise ValueError(
            f"the parameters do not match the model config: {'; '.join(wrong)}. Pass the scanned tree of this model."
        )
    return leaves

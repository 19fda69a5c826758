"""Hidden states and logit lens of texts, as host arrays."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxrl.inference.load import Source, load_params_of
from jaxrl.learning.mesh import MeshSpec, make_mesh, row_sharding, row_shards
from jaxrl.learning.state import decode_shardings
from models.logit_lens import apply_logit_lens, check_layers
from models.params import unstack
from models.qwen2 import Qwen2


def inspect_rows(
    source: Source, rows: Sequence[tuple[str, list[int]]], layers: Sequence[int], top: int, batch: int, dtype: str
) -> dict[str, np.ndarray]:
    """`ids`, `tokens`, `lengths`, `layers`, `hidden`, `final`, `lens_tokens` and `lens_logp` of (id, token ids) rows.

    Shapes are documented in `python -m jaxrl.inspect --help`. batch: rows at a time. Raises ValueError, before weights
    are read, for layers and a `top` that the model does not have and for rows that are empty or too long.
    """
    _check(source, rows, layers, top)
    config, longest = source.config, max(len(row) for _, row in rows)
    mesh = make_mesh(MeshSpec(data=1, fsdp=-1))
    batch = -(-batch // row_shards(mesh)) * row_shards(mesh)
    model = Qwen2(config, scan_layers=False, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype))
    weights = jax.jit(
        lambda params: jax.tree.map(lambda x: x.astype(dtype), unstack(params, config.num_hidden_layers)),
        out_shardings=decode_shardings(config, mesh),
    )(load_params_of(source, dtype, mesh))
    sharding = row_sharding(mesh)
    apply = jax.jit(
        jax.shard_map(
            partial(apply_logit_lens, model, layers=tuple(layers), top=top),
            mesh=mesh,
            in_specs=(PartitionSpec(), sharding.spec, sharding.spec),
            out_specs=sharding.spec,
            check_vma=False,
        )
    )
    size = (len(rows), len(layers), longest)
    arrays = {
        "hidden": np.zeros((*size, config.hidden_size), np.float32),
        "final": np.zeros((len(rows), longest, config.hidden_size), np.float32),
        "lens_tokens": np.full((*size, top), -1, np.int32),
        "lens_logp": np.zeros((*size, top), np.float32),
    }
    tokens, lengths = _padded(rows, longest)
    for first in range(0, len(rows), batch):
        indices = np.minimum(np.arange(first, first + batch), len(rows) - 1)  # the last row pads the last batch
        inputs = jax.device_put((np.maximum(tokens[indices], 0), lengths[indices]), sharding)
        outputs = jax.device_get(apply(weights, *inputs))
        for row, index in enumerate(range(first, min(first + batch, len(rows)))):
            for array, output in zip(arrays.values(), outputs, strict=True):
                array[index, ..., : lengths[index], :] = output[row, ..., : lengths[index], :]
    ids = np.array([name for name, _ in rows])
    return {"ids": ids, "tokens": tokens, "lengths": lengths, "layers": np.array(layers, np.int32)} | arrays


def _check(source: Source, rows: Sequence[tuple[str, list[int]]], layers: Sequence[int], top: int) -> None:
    config = source.config
    check_layers(layers, config)
    if not 1 <= top <= config.vocab_size:
        raise ValueError(f"expected a top from 1 to {config.vocab_size}, the vocabulary of {source.name}, got {top}.")
    for name, row in rows:
        if not 1 <= len(row) <= config.max_position_embeddings:
            raise ValueError(
                f"prompt {name!r}: expected 1 to {config.max_position_embeddings} tokens for "
                f"{source.name}, got {len(row)}."
            )


def _padded(rows: Sequence[tuple[str, list[int]]], longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids [N, T], padded with -1, and lengths [N]."""
    tokens = np.full((len(rows), longest), -1, np.int32)
    for index, (_, row) in enumerate(rows):
        tokens[index, : len(row)] = row
    return tokens, np.array([len(row) for _, row in rows], np.int32)

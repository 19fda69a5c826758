"""The decoder of Qwen2 and dense Qwen3 as a pure linen module: `apply(params, tokens, positions, lengths, cache)`.

One Block serves training (scanned over stacked layers: short compilation, least memory) and decoding (unrolled:
per-layer weights and caches are never copied). Precision: parameters in `param_dtype`, products in `dtype`, norms and
softmax in float32. Source: Qwen2 technical report, arXiv 2407.10671; names as in Hugging Face.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from models.attention import attend
from models.cache import KVCache
from models.config import Qwen2Config
from models.kernels import PROJECTION, Kernels
from models.lora import A, B, LoRASpec

Constrain = Callable[[jax.Array, tuple[str | None, ...]], jax.Array]
"""A sharding constraint by logical axis names: (array, names) -> the same array; see `jaxrl.learning.mesh`."""
REMAT: dict[str, Callable[..., bool]] = {
    "none": jax.checkpoint_policies.everything_saveable,
    "dots": jax.checkpoint_policies.save_from_both_policies(  # products of linear layers, not of attention
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(PROJECTION),
    ),
    "full": jax.checkpoint_policies.nothing_saveable,
}
"""Name -> what a layer saves for the backward pass besides its input; the remainder is recomputed."""


def _linear(
    features: int, axes: tuple[str, str], module: nn.Module, name: str, bias: bool = False
) -> Callable[[jax.Array], jax.Array]:
    """A linear layer whose matrix [in, out] has logical axis names, with an adapter beside it where `module` has LoRA.

    The adapter is a separate path, x A B. So no merged matrix is stored, and the gradient never needs x.T @ dy
    [in, out], a third of the products of a full update. Initialization as in Hugging Face's PEFT: A uniform in
    +-1/sqrt(in), B zero.
    """
    dense = module.kernels.dense(
        features,
        axes,
        frozen=module.lora is not None,
        use_bias=bias,
        name=name,
        dtype=module.dtype,
        param_dtype=module.param_dtype,
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros_init(), axes[1:]),
    )
    lora = module.lora
    if lora is None:
        return dense

    def matrix(suffix: str, size: int, init, axes: tuple[str | None, ...]) -> nn.Dense:
        return nn.Dense(
            size,
            use_bias=False,
            name=name + suffix,
            dtype=module.dtype,
            param_dtype=jnp.float32,
            kernel_init=nn.with_logical_partitioning(init, axes),
        )

    uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    down = matrix(A, lora.rank, uniform, (axes[0], None))
    up = matrix(B, features, nn.initializers.zeros_init(), (None, axes[1]))
    return lambda x: dense(x) + lora.scale * up(down(x))


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, in float32 (see `models.kernels.rms_norm`)."""

    eps: float
    param_dtype: DTypeLike
    kernels: Kernels = Kernels()

    @nn.compact
    def __call__(self, x: Float[Array, "B ... D"]) -> Float[Array, "B ... D"]:
        init = nn.with_logical_partitioning(nn.initializers.ones_init(), ("norm",))
        scale = self.param("scale", init, (x.shape[-1],), self.param_dtype)
        return self.kernels.rms_norm(x, scale, self.eps)


def rotary_embedding(positions: Int[Array, "B T"], head_dim: int, theta: float) -> Float[Array, "B T 2 H2"]:
    """Cosines and sines of the rotary embedding at each position; H2 = head_dim / 2.

    Source: Su et al. 2021, arXiv 2104.09864, equation 34.
    """
    power = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    angle = positions[..., None].astype(jnp.float32) * (theta**-power)[None, None]
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=2)


def apply_rotary(x: Float[Array, "B T N H"], rotary: Float[Array, "B T 2 H2"]) -> Float[Array, "B T N H"]:
    """Rotate the pairs (h, h + H/2) of every head: Hugging Face's half-split order."""
    cos, sin = rotary[:, :, 0, None], rotary[:, :, 1, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions.

    Qwen2 has biases in the query, key and value projections, Qwen3 norms of queries and keys; see `Qwen2Config`.
    """

    config: Qwen2Config
    dtype: DTypeLike
    param_dtype: DTypeLike
    kernels: Kernels
    attention: str
    lora: LoRASpec | None

    @nn.compact
    def __call__(self, x, rotary, positions, lengths, layer_cache):
        """The attention's output [B, T, D], and the layer's cache with these tokens written.

        x: [B, T, D], normed. rotary: from `rotary_embedding`. positions: [B, T]. lengths: [B]. layer_cache: keys and
        values of the layer (`models.cache.Layer`), or None. With a cache, T > 1 is a prefill and T == 1 a decode step.
        """
        c, cache = self.config, self.kernels.cache
        batch, length, _ = x.shape

        def project(name: str, heads: int, axis: str):
            y = _linear(heads * c.head_dim, ("embed", axis), self, name, c.attention_bias)(x)
            return y.reshape(batch, length, heads, c.head_dim)

        query = project("query", c.num_attention_heads, "heads")
        key = project("key", c.num_key_value_heads, "kv_heads")
        value = project("value", c.num_key_value_heads, "kv_heads")
        if c.qk_norm:
            query = RMSNorm(c.rms_norm_eps, self.param_dtype, self.kernels, name="query_norm")(query)
            key = RMSNorm(c.rms_norm_eps, self.param_dtype, self.kernels, name="key_norm")(key)
        query, key = apply_rotary(query, rotary), apply_rotary(key, rotary)
        if layer_cache is None:
            mixed = attend(query, key, value, lengths, self.attention)
        elif length > 1:
            layer_cache = cache.write_prefix(layer_cache, key, value)
            mixed = attend(query, key, value, lengths, self.attention)
        else:
            layer_cache = cache.write_token(layer_cache, key, value, positions[:, 0])
            mixed = cache.attend(query, layer_cache, positions[:, 0])
        mixed = mixed.reshape(batch, length, c.num_attention_heads * c.head_dim)
        return _linear(c.hidden_size, ("heads", "embed"), self, "output")(mixed), layer_cache


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv 2002.05202, equation 6)."""

    config: Qwen2Config
    dtype: DTypeLike
    param_dtype: DTypeLike
    kernels: Kernels
    lora: LoRASpec | None

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        wide = self.config.intermediate_size
        gate = _linear(wide, ("embed", "mlp"), self, "gate")
        up = _linear(wide, ("embed", "mlp"), self, "up")
        down = _linear(self.config.hidden_size, ("mlp", "embed"), self, "down")
        return self.kernels.gated_mlp(x, gate, up, down)


class Block(nn.Module):
    """One decoder layer: pre-norm attention and pre-norm MLP, each with its residual."""

    config: Qwen2Config
    dtype: DTypeLike
    param_dtype: DTypeLike
    attention: str
    constrain: Constrain | None
    kernels: Kernels
    lora: LoRASpec | None

    @nn.compact
    def __call__(self, x, rotary, positions, lengths, layer_cache=None):
        """The residual stream [B, T, D] after the layer, and the layer's cache. Arguments: see `Attention`."""
        c, kernels = self.config, self.kernels.for_length(x.shape[1])
        fields = self.dtype, self.param_dtype, kernels
        norm = partial(RMSNorm, c.rms_norm_eps, self.param_dtype, kernels)
        x = _constrain_rows(x, self.constrain)
        normed = norm(name="input_norm")(x)
        mixed, layer_cache = Attention(c, *fields, self.attention, self.lora, name="attention")(
            normed, rotary, positions, lengths, layer_cache
        )
        x = x + mixed
        x = x + MLP(c, *fields, self.lora, name="mlp")(norm(name="post_norm")(x))
        return x, layer_cache


def _constrain_rows(x: Float[Array, "B T D"], constrain: Constrain | None) -> Float[Array, "B T D"]:
    """Activations sharded by rows. Otherwise the compiler shards them like the weights, with sums over devices."""
    return x if constrain is None else constrain(x, ("batch", None, None))


class Embedding(nn.Module):
    """A table [V, D] with logical axes; rows are looked up, or used as the head by `head_kernel`."""

    config: Qwen2Config
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self) -> Float[Array, "V D"]:
        init = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("vocab", "embed"))
        return self.param("embedding", init, (self.config.vocab_size, self.config.hidden_size), self.param_dtype)  # pyright: ignore[reportReturnType]


class Qwen2(nn.Module):
    """The decoder without its head: tokens in, normed hidden states out.

    scan_layers: True stacks all layers under `layers` (training); False has `layers_0`, ... (decoding, the only form
    that takes a cache); see `stack` and `unstack`. remat: see REMAT. attention: see `attend`. unroll: layers per
    iteration of the scan; 1 compiles fastest and needs the least memory, all layers can run twice as fast. constrain:
    keeps activations sharded by rows. kernels: operations for the backend (see `models.backends`). lora: adds an
    adapter to every linear layer (see `models.lora`).
    """

    config: Qwen2Config
    scan_layers: bool = True
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    remat: str = "none"
    attention: str = "plain"
    unroll: int = 1
    constrain: Constrain | None = None
    kernels: Kernels = Kernels()
    lora: LoRASpec | None = None

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        lengths: Int[Array, " B"],
        cache: KVCache | None = None,
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:
        """Hidden states after the final norm, and the cache with these tokens written.

        lengths: true tokens of each row; later positions are padding. With a cache, T > 1 writes positions 0 .. T-1
        (prefill) and T == 1 writes position `positions[:, 0]` (decode). Raises ValueError for an unknown `remat`, and
        for a cache with scanned layers.
        """
        c = self.config
        if self.remat not in REMAT:
            raise ValueError(f"remat: expected one of {', '.join(REMAT)}, got {self.remat!r}.")
        if self.scan_layers and cache is not None:
            raise ValueError("a cache needs scan_layers=False; decode with unrolled layers (see unstack).")
        table = Embedding(c, self.param_dtype, name="embed")()
        if not c.tie_word_embeddings:
            Embedding(c, self.param_dtype, name="lm_head")()
        x = table[tokens].astype(self.dtype)
        # Without the barrier the compiler recomputes sines and cosines for each head and layer that uses them.
        rotary = jax.lax.optimization_barrier(rotary_embedding(positions, c.head_dim, c.rope_theta))
        block = Block
        if self.remat != "none":
            block = nn.remat(Block, prevent_cse=not self.scan_layers, policy=REMAT[self.remat])
        fields = (c, self.dtype, self.param_dtype, self.attention, self.constrain, self.kernels, self.lora)
        if self.scan_layers:
            layers = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=(nn.broadcast,) * 3,
                length=c.num_hidden_layers,
                unroll=self.unroll,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )(*fields, name="layers")
            x, _ = layers(x, rotary, positions, lengths)
        else:
            written = []
            for i in range(c.num_hidden_layers):
                layer_cache = None if cache is None else (cache.keys[i], cache.values[i])
                x, layer_cache = block(*fields, name=f"layers_{i}")(x, rotary, positions, lengths, layer_cache)
                written.append(layer_cache)
            if cache is not None:
                cache = KVCache(*(tuple(side) for side in zip(*written, strict=True)))
        norm = RMSNorm(c.rms_norm_eps, self.param_dtype, self.kernels.for_length(x.shape[1]), name="final_norm")
        return norm(_constrain_rows(x, self.constrain)), cache

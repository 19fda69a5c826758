"""The Qwen2 decoder as a pure linen module: `apply(params, tokens, positions, lengths, cache)`.

One Block serves both forms: scanned over stacked layers for training (short compile, least memory) and unrolled for
decoding (per-layer weights and caches stay where they are). Precision: parameters in `param_dtype`, products in
`dtype`, norms and softmax in float32. Source: Qwen2 technical report, arXiv 2407.10671; names as in Hugging Face.
"""

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from models.attention import attend, attend_cached
from models.cache import KVCache, write_prefix, write_token
from models.config import Qwen2Config
from models.cpu import PROJECTION, SMALLEST_ARRAY, TransposedDense, dot_dense
from models.lora import A, B, LoRASpec

Place = Callable[[jax.Array, tuple[str | None, ...]], jax.Array]
"""Says where an array lies: (array, logical axis names) -> the same array; see `jaxrl.learning.mesh.placer`."""
REMAT: dict[str, Callable[..., bool]] = {
    "none": jax.checkpoint_policies.everything_saveable,
    "dots": jax.checkpoint_policies.save_from_both_policies(  # of projections, so not of attention
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(PROJECTION),
    ),
    "full": jax.checkpoint_policies.nothing_saveable,
}
"""name -> what of a layer is kept for the backward pass, besides its input; all else is computed again."""


def _linear(
    features: int, axes: tuple[str, str], module: nn.Module, name: str, bias: bool = False
) -> Callable[[jax.Array], jax.Array]:
    """A projection whose kernel [in, out] (or transposed) carries logical axis names; an adapter beside it if asked.

    The adapter is a path of its own, x A B: the gradient then never needs x'dy [in, out], a third of the products of a
    full update, and no merged W is held. A starts as Hugging Face's PEFT has it, uniform in +-1/sqrt(in), B with zeros.
    """
    if module.transposed:
        dense = partial(TransposedDense, unit=module.unit)
    else:  # beside an adapter the kernel is frozen
        dense = nn.Dense if module.lora else partial(nn.Dense, dot_general=dot_dense)
    dense = dense(
        features,
        use_bias=bias,
        name=name,
        dtype=module.dtype,
        param_dtype=module.param_dtype,
        kernel_init=nn.with_logical_partitioning(
            nn.initializers.normal(0.02), axes[::-1] if module.transposed else axes
        ),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros_init(), axes[1:]),
    )
    lora = module.lora
    if lora is None:
        return dense

    def part(end: str, size: int, init, axes: tuple[str | None, ...]) -> nn.Dense:
        return nn.Dense(
            size,
            use_bias=False,
            name=name + end,
            dtype=module.dtype,
            param_dtype=jnp.float32,
            kernel_init=nn.with_logical_partitioning(init, axes),
        )

    uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    down = part(A, lora.rank, uniform, (axes[0], None))
    up = part(B, features, nn.initializers.zeros_init(), (None, axes[1]))
    return lambda x: dense(x) + lora.scale * up(down(x))


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, in float32 (Zhang and Sennrich 2019, equation 4).

    unit: fewer rows are filled up to so many, and to SMALLEST_ARRAY elements, so that sums come in one order on a CPU
    however many rows there are; 0: none are.
    """

    eps: float
    param_dtype: DTypeLike
    unit: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "B ... D"]) -> Float[Array, "B ... D"]:
        rows = x.shape[0]
        least = max(self.unit, -(-SMALLEST_ARRAY // math.prod(x.shape[1:]))) if self.unit else 0
        fill = rows < least
        if fill:
            more = ((0, least - rows), *((0, 0),) * (x.ndim - 1))
            x = jax.lax.optimization_barrier(jnp.pad(x, more))  # else the compiler takes the filling out again
        init = nn.with_logical_partitioning(nn.initializers.ones_init(), ("norm",))
        scale = self.param("scale", init, (x.shape[-1],), self.param_dtype)
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        scale = jax.lax.broadcast_in_dim(scale, x.shape, (x.ndim - 1,))
        y = wide.astype(x.dtype) * scale.astype(x.dtype)
        return jax.lax.optimization_barrier(y)[:rows] if fill else y


def rotation(positions: Int[Array, "B T"], head_dim: int, theta: float) -> Float[Array, "B T 2 H2"]:
    """Cosines and sines of the rotary embedding for each position (Su et al. 2021, arXiv 2104.09864, eq. 34)."""
    power = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    angle = positions[..., None].astype(jnp.float32) * (theta**-power)[None, None]
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=2)


def rotate(x: Float[Array, "B T N H"], turn: Float[Array, "B T 2 H2"]) -> Float[Array, "B T N H"]:
    """Turn the pairs (h, h + H/2) of every head: Hugging Face's half-split order."""
    cos, sin = turn[:, :, 0, None], turn[:, :, 1, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention with biased query, key and value projections and rotary positions."""

    config: Qwen2Config
    dtype: DTypeLike
    param_dtype: DTypeLike
    unit: int
    transposed: bool
    attention: str
    lora: LoRASpec | None

    @nn.compact
    def __call__(self, x, turn, positions, lengths, layer_cache):
        c = self.config
        batch, length, _ = x.shape

        def project(name: str, heads: int, axis: str):
            y = _linear(heads * c.head_dim, ("embed", axis), self, name, c.attention_bias)(x)
            return y.reshape(batch, length, heads, c.head_dim)

        query = project("query", c.num_attention_heads, "heads")
        key = project("key", c.num_key_value_heads, "kv_heads")
        value = project("value", c.num_key_value_heads, "kv_heads")
        if c.qk_norm:
            query = RMSNorm(c.rms_norm_eps, self.param_dtype, self.unit, name="query_norm")(query)
            key = RMSNorm(c.rms_norm_eps, self.param_dtype, self.unit, name="key_norm")(key)
        query, key = rotate(query, turn), rotate(key, turn)
        if layer_cache is None:
            mixed = attend(query, key, value, lengths, self.attention)
        elif length > 1:
            layer_cache = write_prefix(layer_cache, key, value)
            mixed = attend(query, key, value, lengths, self.attention)
        else:
            place = positions[:, 0]
            layer_cache = write_token(layer_cache, key, value, place)
            mixed = attend_cached(query, *layer_cache, place)
        mixed = mixed.reshape(batch, length, c.num_attention_heads * c.head_dim)
        return _linear(c.hidden_size, ("heads", "embed"), self, "output")(mixed), layer_cache


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv 2002.05202, equation 6)."""

    config: Qwen2Config
    dtype: DTypeLike
    param_dtype: DTypeLike
    unit: int
    transposed: bool
    lora: LoRASpec | None

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        wide = self.config.intermediate_size
        rows = x.reshape(-1, x.shape[-1])  # XLA's CPU gradient of silu between products is 4 times slower on [B, T, F]
        gate = _linear(wide, ("embed", "mlp"), self, "gate")(rows)
        up = _linear(wide, ("embed", "mlp"), self, "up")(rows)
        # For the gradient both factors are kept, nothing made of them: 10 % less memory, and fewer passes over it.
        mix = jax.checkpoint(lambda gate, up: nn.silu(gate) * up)
        mixed = mix(gate.T, up.T).T if self.unit else mix(gate, up)  # `dot_by_rows` has and wants rows as columns
        return _linear(self.config.hidden_size, ("mlp", "embed"), self, "down")(mixed).reshape(x.shape)


class Block(nn.Module):
    """One decoder layer: pre-norm attention and pre-norm MLP, each with its residual."""

    config: Qwen2Config
    dtype: DTypeLike
    param_dtype: DTypeLike
    attention: str
    place: Place | None
    row_unit: int
    lora: LoRASpec | None

    @nn.compact
    def __call__(self, x, turn, positions, lengths, layer_cache=None):
        c, unit = self.config, self.row_unit if x.shape[1] == 1 else 0
        sizes = self.dtype, self.param_dtype, unit, self.row_unit > 0
        norm = partial(RMSNorm, c.rms_norm_eps, self.param_dtype, unit)
        x = _by_rows(x, self.place)
        normed = norm(name="input_norm")(x)
        mixed, layer_cache = Attention(c, *sizes, self.attention, self.lora, name="attention")(
            normed, turn, positions, lengths, layer_cache
        )
        x = x + mixed
        x = x + MLP(c, *sizes, self.lora, name="mlp")(norm(name="post_norm")(x))
        return x, layer_cache


def _by_rows(x: Float[Array, "B T D"], place: Place | None) -> Float[Array, "B T D"]:
    """Left alone, the compiler splits activations as weights are split, with sums over all devices in each layer."""
    return x if place is None else place(x, ("batch", None, None))


class Embedding(nn.Module):
    """A table [V, D] with logical axes; rows are looked up, or used as the head by `head_kernel`."""

    config: Qwen2Config
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self) -> Float[Array, "V D"]:
        init = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("vocab", "embed"))
        return self.param("embedding", init, (self.config.vocab_size, self.config.hidden_size), self.param_dtype)


class Qwen2(nn.Module):
    """The decoder without its head: tokens in, normed hidden states out.

    `scan_layers=True` holds all layers stacked under `layers` (training); `False` holds `layers_0`, ... (decoding,
    the only form that takes a cache). See `stack` and `unstack`. `unroll` is the number of stacked layers in one turn
    of the scan: 1 compiles and fits best on a GPU, all of them run about twice as fast on a CPU. `place` pins
    activations to the devices that hold their rows. `row_unit`: for decoding on a CPU, kernels lie as [out, in] (see
    `transpose_kernels`) and products of a decode step take so many rows at a time (see `dot_by_rows`); 0: neither.
    `lora` puts an adapter beside every linear layer (see models.lora).
    """

    config: Qwen2Config
    scan_layers: bool = True
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    remat: str = "none"
    attention: str = "plain"
    unroll: int = 1
    place: Place | None = None
    row_unit: int = 0
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

        lengths: true tokens of each row, keys beyond are hidden. With a cache, T > 1 writes positions 0 .. T-1
        (prefill) and T == 1 writes position `positions[:, 0]` (decode).
        """
        c = self.config
        if self.remat not in REMAT:
            raise ValueError(f"remat must be one of {', '.join(REMAT)}, got {self.remat!r}.")
        if self.scan_layers and cache is not None:
            raise ValueError("a cache needs scan_layers=False: decode with unrolled layers (see unstack).")
        table = Embedding(c, self.param_dtype, name="embed")()
        if not c.tie_word_embeddings:
            Embedding(c, self.param_dtype, name="lm_head")()
        x = table[tokens].astype(self.dtype)
        # Else the compiler takes sines and cosines anew for each head, layer and block of the cache that uses them.
        turn = jax.lax.optimization_barrier(rotation(positions, c.head_dim, c.rope_theta))
        block = Block
        if self.remat != "none":
            block = nn.remat(Block, prevent_cse=not self.scan_layers, policy=REMAT[self.remat])
        fields = (c, self.dtype, self.param_dtype, self.attention, self.place, self.row_unit, self.lora)
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
            x, _ = layers(x, turn, positions, lengths)
        else:
            written = []
            for i in range(c.num_hidden_layers):
                layer_cache = None if cache is None else (cache.keys[i], cache.values[i])
                x, layer_cache = block(*fields, name=f"layers_{i}")(x, turn, positions, lengths, layer_cache)
                written.append(layer_cache)
            if cache is not None:
                cache = KVCache(*(tuple(side) for side in zip(*written, strict=True)))
        unit = self.row_unit if x.shape[1] == 1 else 0
        return RMSNorm(c.rms_norm_eps, self.param_dtype, unit, name="final_norm")(_by_rows(x, self.place)), cache

"""Model configurations, read from and written to Hugging Face's `config.json`."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

SUPPORTED = "Qwen2 (Qwen2, Qwen2.5, Qwen2.5-1M, Qwen2.5-Math, DeepSeek-R1-Distill-Qwen) and dense Qwen3"
REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@dataclasses.dataclass(frozen=True)
class Qwen2Config:
    """Configuration of a Qwen2 or dense Qwen3 decoder, with Hugging Face's field names.

    attention_bias: bias in the query, key and value projections. qk_norm: Qwen3's RMSNorm on queries and keys.
    Raises ValueError for sizes that are not positive or do not divide.
    Source: Qwen2 technical report, arXiv 2407.10671, section 2.2; Qwen3 technical report, arXiv 2505.09388, section 2.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    attention_bias: bool = True
    qk_norm: bool = False
    max_position_embeddings: int = 32_768

    def __post_init__(self):
        sizes = {
            field: getattr(self, field)
            for field in (
                "vocab_size",
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_key_value_heads",
                "head_dim",
                "max_position_embeddings",
            )
        }
        for field, value in sizes.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{field} must be an integer of at least 1, got {value!r}; set a positive size.")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                "num_attention_heads must be a multiple of num_key_value_heads, got "
                f"{self.num_attention_heads} and {self.num_key_value_heads}; choose numbers of heads that divide."
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim must be even for rotary embeddings, got {self.head_dim}; choose an even number."
            )

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> "Qwen2Config":
        """The configuration in a parsed `config.json`. Raises ValueError that names missing and unsupported fields."""
        kind = config.get("model_type")
        if kind not in ("qwen2", "qwen3"):
            raise ValueError(f"expected a model_type of qwen2 or qwen3, got {kind!r}; supported: {SUPPORTED}.")
        missing = [field for field in REQUIRED if config.get(field) is None]
        if missing:
            raise ValueError(f"config.json lacks {', '.join(missing)}; use the config.json of the weights.")
        _check_supported(config, kind)
        rope = config.get("rope_parameters") or {}
        heads = config["num_attention_heads"]
        longest = config.get("max_position_embeddings", 32_768)
        dual_chunk = config.get("dual_chunk_attention_config")
        if dual_chunk:  # equals full attention within the original context length
            longest = min(longest, dual_chunk.get("original_max_position_embeddings", longest))
        return cls(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            num_hidden_layers=config["num_hidden_layers"],
            num_attention_heads=heads,
            num_key_value_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or (128 if kind == "qwen3" else config["hidden_size"] // heads),
            rope_theta=float(rope.get("rope_theta", config.get("rope_theta", 10_000.0))),
            rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
            attention_bias=kind == "qwen2",
            qk_norm=kind == "qwen3",
            max_position_embeddings=longest,
        )

    def to_hugging_face(self) -> dict[str, Any]:
        """The content of `config.json`; `from_hugging_face` reads it back to an equal object."""
        kind, name = ("qwen3", "Qwen3ForCausalLM") if self.qk_norm else ("qwen2", "Qwen2ForCausalLM")
        fields = dataclasses.asdict(self)
        fields.pop("qk_norm")
        if kind == "qwen2":
            fields.pop("attention_bias")
        return {
            "architectures": [name],
            "model_type": kind,
            "hidden_act": "silu",
            "attention_dropout": 0.0,
            "use_sliding_window": False,
            **fields,
        }


def _check_supported(config: Mapping[str, Any], kind: str) -> None:
    """Raises ValueError for options that change the computation and are not implemented."""
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise ValueError(f"expected hidden_act 'silu', got {activation!r}; supported: {SUPPORTED}.")
    for field in ("rope_parameters", "rope_scaling"):
        scaling = config.get(field) or {}
        rope_type = scaling.get("rope_type", scaling.get("type", "default"))
        if rope_type != "default":
            raise ValueError(
                f"RoPE scaling {rope_type!r} is not supported; "
                f"remove {field} from config.json (and stay within max_position_embeddings) or use another model."
            )
    full_layers = config.get("max_window_layers", 0)
    windowed = config.get("use_sliding_window") and full_layers < config["num_hidden_layers"]
    if windowed or set(config.get("layer_types") or ()) - {"full_attention"}:
        raise ValueError(
            "sliding-window attention is not supported; "
            "set use_sliding_window to false in config.json (and stay within the window) or use another model."
        )
    if kind == "qwen3" and config.get("attention_bias"):
        raise ValueError(
            "Qwen3 with attention_bias is not supported (it adds a bias to the output projection); "
            f"supported: {SUPPORTED}, with their published biases."
        )
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "unknown")
        raise ValueError(
            f"quantized weights ({method}) are not supported; use the original float32, float16 or bfloat16 model."
        )


def _qwen2(hidden: int, mlp: int, layers: int, heads: int, kv_heads: int, vocab: int, **fields: Any) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=hidden // heads,
        **fields,
    )


def _qwen3(hidden: int, mlp: int, layers: int, heads: int, tied: bool) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=151_936,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=tied,
        attention_bias=False,
        qk_norm=True,
        max_position_embeddings=40_960,
    )


_7B = (3584, 18_944, 28, 28, 4, 152_064)
_14B = (5120, 13_824, 48, 40, 8, 152_064)
_32B = (5120, 27_648, 64, 40, 8, 152_064)
_1_5B = (1536, 8960, 28, 12, 2, 151_936)
_LONG = {"rope_theta": 1e7, "rms_norm_eps": 1e-5, "max_position_embeddings": 262_144}
_DISTILL = {"max_position_embeddings": 131_072}

PRESETS: dict[str, Qwen2Config] = {
    "0.5b": _qwen2(896, 4864, 24, 14, 2, 151_936, tie_word_embeddings=True),
    "1.5b": _qwen2(*_1_5B, tie_word_embeddings=True),
    "3b": _qwen2(2048, 11_008, 36, 16, 2, 151_936, tie_word_embeddings=True),
    "7b": _qwen2(*_7B),
    "14b": _qwen2(*_14B),
    "32b": _qwen2(*_32B),
    "7b-1m": _qwen2(*_7B, **_LONG),
    "14b-1m": _qwen2(*_14B, **_LONG),
    "math-1.5b": _qwen2(*_1_5B, tie_word_embeddings=True, rope_theta=1e4, max_position_embeddings=4096),
    "math-7b": _qwen2(*_7B, rope_theta=1e4, max_position_embeddings=4096),
    "r1-distill-1.5b": _qwen2(*_1_5B, rope_theta=1e4, **_DISTILL),
    "r1-distill-7b": _qwen2(*_7B, rope_theta=1e4, **_DISTILL),
    "r1-distill-14b": _qwen2(*_14B, rms_norm_eps=1e-5, **_DISTILL),
    "r1-distill-32b": _qwen2(*_32B, rms_norm_eps=1e-5, **_DISTILL),
    "qwen3-0.6b": _qwen3(1024, 3072, 28, 16, True),
    "qwen3-1.7b": _qwen3(2048, 6144, 28, 16, True),
    "qwen3-4b": _qwen3(2560, 9728, 36, 32, True),
    "qwen3-8b": _qwen3(4096, 12_288, 36, 32, False),
    "qwen3-14b": _qwen3(5120, 17_408, 40, 40, False),
    "qwen3-32b": _qwen3(5120, 25_600, 64, 64, False),
}
"""Published configurations by short name, for planning and shape checks without weights."""


def preset(name: str) -> Qwen2Config:
    """The configuration of a preset ("7b") or hub name ("Qwen/Qwen2.5-7B-Instruct-1M"). Raises ValueError."""
    key = name.rpartition("/")[2].lower()
    size = re.search(r"\d+(\.\d+)?b(?![a-z])", key)
    if key in PRESETS:
        return PRESETS[key]
    if size and "moe" not in key and "vl" not in key:
        for mark, prefix, suffix in (
            ("deepseek-r1-distill-qwen", "r1-distill-", ""),
            ("qwen3", "qwen3-", ""),
            ("qwen2.5-math", "math-", ""),
            ("-1m", "", "-1m"),
            ("qwen2.5", "", ""),
        ):
            if mark in key:
                config = PRESETS.get(f"{prefix}{size.group()}{suffix}")
                if config is not None:
                    return config
                break
    raise ValueError(f"unknown preset {name!r}; expected one of {', '.join(PRESETS)}.")

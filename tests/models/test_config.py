"""Model configurations: round trips through config.json, unsupported options, presets."""

import math

import pytest
import transformers

from models.config import PRESETS, Qwen2Config, preset
from models.hf_names import tensor_specs

SMALL = {
    "model_type": "qwen2",
    "vocab_size": 10,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
UNSUPPORTED = {
    "model_type of qwen2 or qwen3, got 'qwen2_moe'": {"model_type": "qwen2_moe"},
    "model_type of qwen2 or qwen3, got 'qwen3_moe'": {"model_type": "qwen3_moe"},
    "model_type of qwen2 or qwen3, got 'qwen2_5_vl'": {"model_type": "qwen2_5_vl"},
    "model_type of qwen2 or qwen3, got 'llama'": {"model_type": "llama"},
    "hidden_act 'silu', got 'gelu'": {"hidden_act": "gelu"},
    "RoPE scaling 'yarn'": {"rope_scaling": {"type": "yarn", "factor": 4.0}},
    "RoPE scaling 'mrope'": {"rope_parameters": {"rope_type": "mrope", "rope_theta": 1e6}},
    "sliding-window": {"use_sliding_window": True, "max_window_layers": 1},
    "sliding-window attention is": {"layer_types": ["full_attention", "sliding_attention"]},
    r"quantized weights \(awq\)": {"quantization_config": {"quant_method": "awq"}},
    "Qwen3 with attention_bias": {"model_type": "qwen3", "attention_bias": True},
    "lacks hidden_size, num_attention_heads": {"hidden_size": None, "num_attention_heads": None},
    "num_hidden_layers must be an integer of at least 1, got 0": {"num_hidden_layers": 0},
    "multiple of num_key_value_heads, got 2 and 3": {"num_key_value_heads": 3},
    "head_dim must be even": {"head_dim": 3},
}


@pytest.mark.parametrize("message", sorted(UNSUPPORTED))
def test_unsupported_options_are_rejected(message):
    with pytest.raises(ValueError, match=message):
        Qwen2Config.from_hugging_face(SMALL | UNSUPPORTED[message])


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_round_trip_also_through_transformers(name):
    fields = PRESETS[name].to_hugging_face()
    assert Qwen2Config.from_hugging_face(fields) == PRESETS[name]
    kind = transformers.CONFIG_MAPPING[fields["model_type"]]
    assert Qwen2Config.from_hugging_face(kind.from_dict(fields).to_dict()) == PRESETS[name]


def test_unused_window_and_dual_chunk_attention_are_full_attention():
    unused = Qwen2Config.from_hugging_face(SMALL | {"use_sliding_window": True, "max_window_layers": 2})
    assert unused == Qwen2Config.from_hugging_face(SMALL)
    window = {
        "max_position_embeddings": 1_010_000,
        "dual_chunk_attention_config": {"original_max_position_embeddings": 262_144},
    }
    assert Qwen2Config.from_hugging_face(SMALL | window).max_position_embeddings == 262_144


# Each model's published config.json on the hub:
# hidden, mlp, layers, heads, key-value heads, vocabulary, rope theta, tied.
PUBLISHED = {
    "3b": (2048, 11_008, 36, 16, 2, 151_936, 1e6, True),
    "7b": (3584, 18_944, 28, 28, 4, 152_064, 1e6, False),
    "14b": (5120, 13_824, 48, 40, 8, 152_064, 1e6, False),
    "32b": (5120, 27_648, 64, 40, 8, 152_064, 1e6, False),
    "r1-distill-1.5b": (1536, 8960, 28, 12, 2, 151_936, 1e4, False),
    "qwen3-4b": (2560, 9728, 36, 32, 8, 151_936, 1e6, True),
    "qwen3-8b": (4096, 12_288, 36, 32, 8, 151_936, 1e6, False),
    "qwen3-14b": (5120, 17_408, 40, 40, 8, 151_936, 1e6, False),
    "qwen3-32b": (5120, 25_600, 64, 64, 8, 151_936, 1e6, False),
}
# Billions of parameters on the model cards; tied embeddings count once.
STATED = {
    "0.5b": 0.49,
    "1.5b": 1.54,
    "3b": 3.09,
    "7b": 7.61,
    "14b": 14.7,
    "32b": 32.5,
    "7b-1m": 7.61,
    "14b-1m": 14.7,
    "math-1.5b": 1.54,
    "math-7b": 7.61,
    "r1-distill-1.5b": 1.78,
    "r1-distill-7b": 7.61,
    "r1-distill-14b": 14.7,
    "r1-distill-32b": 32.5,
    "qwen3-0.6b": 0.6,
    "qwen3-1.7b": 1.7,
    "qwen3-4b": 4.0,
    "qwen3-8b": 8.2,
    "qwen3-14b": 14.8,
    "qwen3-32b": 32.8,
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_presets_are_the_published_configs(name):
    found = PRESETS[name]
    assert PUBLISHED[name] == (
        found.hidden_size,
        found.intermediate_size,
        found.num_hidden_layers,
        found.num_attention_heads,
        found.num_key_value_heads,
        found.vocab_size,
        found.rope_theta,
        found.tie_word_embeddings,
    )
    assert found.head_dim == 128


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_have_the_parameter_counts_of_the_model_cards(name):
    count = sum(math.prod(spec.shape) for spec in tensor_specs(PRESETS[name]).values())
    assert count / 1e9 == pytest.approx(STATED[name], rel=0.02)


def test_hub_names_select_their_preset():
    wanted = {
        "Qwen/Qwen2.5-7B-Instruct-1M": "7b-1m",
        "Qwen/Qwen2.5-0.5B-Instruct": "0.5b",
        "Qwen/Qwen3-8B": "qwen3-8b",
        "Qwen/Qwen2.5-Math-1.5B": "math-1.5b",
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": "r1-distill-7b",
    }
    assert {name: preset(name) for name in wanted} == {name: PRESETS[key] for name, key in wanted.items()}
    for other in ("Qwen/Qwen3-30B-A3B", "Qwen/Qwen2.5-VL-7B", "meta-llama/Llama-3-8B", "Qwen2.5-9B"):
        with pytest.raises(ValueError, match="unknown preset"):
            preset(other)

"""Shapes from config.json: what is supported reads back the same, the rest is refused by name."""

import pytest
import transformers

from models.config import PRESETS, Qwen2Config, preset

SMALL = {"model_type": "qwen2", "vocab_size": 10, "hidden_size": 8, "intermediate_size": 8,
         "num_hidden_layers": 2, "num_attention_heads": 2}
REFUSED = {
    "type qwen2 or qwen3, got 'qwen2_moe'": {"model_type": "qwen2_moe"},
    "hidden_act 'silu', got 'gelu'": {"hidden_act": "gelu"},
    "rope scaling 'yarn'": {"rope_scaling": {"type": "yarn", "factor": 4.0}},
    "rope scaling 'mrope'": {"rope_parameters": {"rope_type": "mrope", "rope_theta": 1e6}},
    "sliding-window": {"use_sliding_window": True, "max_window_layers": 1},
    r"quantised \(awq\)": {"quantization_config": {"quant_method": "awq"}},
    "Qwen3 with attention_bias": {"model_type": "qwen3", "attention_bias": True},
    "lacks hidden_size, num_attention_heads": {"hidden_size": None, "num_attention_heads": None},
    "num_hidden_layers must be a whole number of at least 1, got 0": {"num_hidden_layers": 0},
    "multiple of num_key_value_heads, got 2 and 3": {"num_key_value_heads": 3},
    "head_dim must be even": {"head_dim": 3},
}


@pytest.mark.parametrize("sentence", sorted(REFUSED))
def test_what_is_not_supported_is_refused_by_name(sentence):
    with pytest.raises(ValueError, match=sentence):
        Qwen2Config.from_hugging_face(SMALL | REFUSED[sentence])


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_reads_back_the_same_also_through_transformers(name):
    fields = PRESETS[name].to_hugging_face()
    assert Qwen2Config.from_hugging_face(fields) == PRESETS[name]
    kind = transformers.CONFIG_MAPPING[fields["model_type"]]
    assert Qwen2Config.from_hugging_face(kind.from_dict(fields).to_dict()) == PRESETS[name]


def test_a_window_that_no_layer_uses_and_a_dual_chunk_within_its_window_are_plain_attention():
    unused = Qwen2Config.from_hugging_face(SMALL | {"use_sliding_window": True, "max_window_layers": 2})
    assert unused == Qwen2Config.from_hugging_face(SMALL)
    window = {"max_position_embeddings": 1_010_000,
              "dual_chunk_attention_config": {"original_max_position_embeddings": 262_144}}
    assert Qwen2Config.from_hugging_face(SMALL | window).max_position_embeddings == 262_144


def test_hub_names_find_their_shape():
    wanted = {"Qwen/Qwen2.5-7B-Instruct-1M": "7b-1m", "Qwen/Qwen2.5-0.5B-Instruct": "0.5b",
              "Qwen/Qwen3-8B": "qwen3-8b", "Qwen/Qwen2.5-Math-1.5B": "math-1.5b",
              "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": "r1-distill-7b"}
    assert {name: preset(name) for name in wanted} == {name: PRESETS[key] for name, key in wanted.items()}
    for other in ("Qwen/Qwen3-30B-A3B", "Qwen/Qwen2.5-VL-7B", "meta-llama/Llama-3-8B", "Qwen2.5-9B"):
        with pytest.raises(ValueError, match="no preset for"):
            preset(other)

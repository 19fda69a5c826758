"""A model folder written by transformers can be trained, and transformers loads the export."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from jaxrl import train
from jaxrl.reporting.writers import read_metrics

ROOT = Path(__file__).parents[2]
SHORT = (
    "--config.steps=3",
    "--config.prompts=4",
    "--config.samples=4",
    "--config.pool.p3=16",
    "--config.sampling.max_new_tokens=24",
    "--config.evaluation.pool.p2=4",
    "--config.evaluation.pool.p3=4",
    "--config.evaluation.pool.p4=0",
    "--config.evaluation.pool.p5=0",
    "--config.evaluation.samples=1",
    "--config.evaluation.max_new_tokens=24",
    "--config.layout.multiple=64",
    "--config.layout.ratio=2.0",
    "--config.optimizer.weight_decay=1.0",
    "--config.learning_rate.value=0.001",
    "--config.guard.entropy_max=0",  # a random model has maximal entropy
    "--config.wandb.mode=off",
    "--config.compile_cache=",
)


def test_a_random_model_of_transformers_is_trained_and_transformers_loads_the_export(tmp_path):
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "tiny")
    config = Qwen2Config(
        vocab_size=640,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    arguments = [f"--config.model={tmp_path / 'model'}", f"--workdir={tmp_path / 'run'}", *SHORT]
    assert train.main(["--config=configs/stage1.py:tiny", *arguments]) == 0
    assert [record["step"] for record in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [0, 1, 2, 3]

    before, after = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for folder in (tmp_path / "model", tmp_path / "run" / "export")
    )
    assert after.config.to_dict() | {"_name_or_path": ""} == before.config.to_dict() | {"_name_or_path": ""}
    words = AutoTokenizer.from_pretrained(tmp_path / "run" / "export")("Ann says: Bob is a knave.", return_tensors="pt")
    with torch.no_grad():
        moved = (after(**words).logits - before(**words).logits).abs().max()
    assert 1e-5 < moved < 1.0  # no random answer is correct, so weight decay moves the weights

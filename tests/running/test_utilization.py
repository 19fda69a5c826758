"""Operations of an update against published and counted numbers."""

import jax
import jax.numpy as jnp
import pytest

from jaxrl.reporting.writers import read_metrics
from jaxrl.running import steps
from jaxrl.running.utilization import peak_flops, update_flops
from models.config import Qwen2Config, preset
from models.qwen2 import Qwen2


def test_a_short_row_costs_six_operations_for_each_parameter_and_token():
    config = preset("7b")
    # The technical report's 7.61 B, less the embedding's lookup.
    parameters = 7_615_616_512 - config.vocab_size * config.hidden_size
    assert update_flops(config, [1]) == pytest.approx(6 * parameters, rel=1e-3)


def test_what_the_compiler_counts_is_what_we_count():
    """XLA counts the whole square of a forward pass's attention, and elementwise work too, here a few percent."""
    config = Qwen2Config(512, 256, 1024, 3, 4, 2, 64, tie_word_embeddings=True)
    model, tokens = Qwen2(config, scan_layers=False), jnp.ones((2, 16), jnp.int32)
    lengths = jnp.full(2, 16)
    params = jax.eval_shape(lambda key: model.init(key, tokens, tokens, lengths)["params"], jax.random.key(0))

    def forward(params):
        hidden, _ = model.apply({"params": params}, tokens, tokens, lengths)
        return hidden @ params["embed"]["embedding"].unbox().T

    counted = jax.jit(forward).lower(params).compile().cost_analysis()["flops"]
    assert update_flops(config, [16, 16]) / 3 == pytest.approx(counted, rel=0.04)


def test_attention_grows_with_the_square_of_a_row():
    config = preset("7b")
    linear = update_flops(config, [1]) * 4096
    pairs = 3 * config.num_hidden_layers * config.num_attention_heads * 4 * config.head_dim * 4096 * 4095 / 2
    assert update_flops(config, [4096]) == pytest.approx(linear + pairs)
    assert update_flops(config, [5, 7]) == update_flops(config, [5]) + update_flops(config, [7])


@pytest.mark.parametrize(("kind", "dtype", "peak"), [
    ("NVIDIA A100-SXM4-80GB", "bfloat16", 312e12), ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
    ("NVIDIA H100 PCIe", "bfloat16", 756e12), ("NVIDIA L4", "bfloat16", 121e12), ("NVIDIA L40S", "bfloat16", 362e12),
    ("NVIDIA A100-SXM4-80GB", "float32", None), ("cpu", "bfloat16", None),
])
def test_peak_by_kind(kind, dtype, peak):
    assert peak_flops(kind, dtype) == peak


def test_a_step_on_a_known_device_says_its_share(small, tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "peak_flops", lambda kind, dtype: 1e6 if (kind, dtype) == ("cpu", "float32") else None)
    run = small.run(small.fields(tmp_path / "run", {"evaluation.every": 0}))
    run.train()
    record = read_metrics(tmp_path / "run" / "metrics.jsonl")[1]
    needed = record["speed/update_mfu"] * record["time/update"] * run.machine.mesh.devices.size * 1e6
    parameters = 16 * 288 + 2 * (16 * 8 * (2 * 2 + 2) + 3 * 16 * 32)
    assert 6 * parameters * record["tokens/update"] < needed < 8 * parameters * record["tokens/update"]

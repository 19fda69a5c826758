"""The law "one model": logits, gradients and greedy tokens equal those of torch, on random weights."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.learning.state import abstract_params
from models.backends import decode_kernels, training_kernels
from models.convert import load_params, save_params
from models.folder import read_config
from models.params import head_kernel, stack, unstack
from models.qwen2 import Qwen2

BASE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
SHAPES = {
    "grouped": {},
    "tied": {"tie_word_embeddings": True},
    "one kv head for seven": {"hidden_size": 56, "num_attention_heads": 7, "num_key_value_heads": 1},
    "no groups": {"num_key_value_heads": 4, "rope_theta": 1e4},
    "long rope, large eps, odd vocabulary": {"rope_theta": 1e7, "rms_norm_eps": 1e-2, "vocab_size": 131},
    "one layer, tied": {"num_hidden_layers": 1, "tie_word_embeddings": True, "rope_theta": 1e4},
    "qwen3 with its own head size": {"model_type": "qwen3", "head_dim": 12},
    "qwen3 tied": {"model_type": "qwen3", "head_dim": 8, "tie_word_embeddings": True},
}
LENGTHS = (19, 7, 12)
torch.set_num_threads(1)  # faster than two at this size
PLATFORMS = ("cpu", "gpu")  # whose kernels are tested; the plain ones of GPUs run on a CPU as well


def make_torch(shape: str, folder, matrices: float = 0.15, embedding: float = 0.15):
    """A random model; norms and biases differ from their initial values, so that a missing one is detected.

    matrices, embedding: standard deviations of the layers' and the head's weights, and of the embedding table.
    """
    fields = BASE | SHAPES[shape]
    kind = fields.pop("model_type", "qwen2")
    config = transformers.AutoConfig.for_model(kind, **fields)
    torch.manual_seed(sorted(SHAPES).index(shape))
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for name, weight in model.named_parameters():
        centre = 1.0 if "norm" in name else 0.0
        spread = 0.3 if weight.ndim == 1 else embedding if "embed" in name else matrices
        torch.nn.init.normal_(weight, centre, spread)
    model.save_pretrained(folder)
    return model


@functools.cache
def _rows(vocabulary: int):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, vocabulary, (len(LENGTHS), max(LENGTHS))).astype(np.int32)
    positions = np.broadcast_to(np.arange(max(LENGTHS), dtype=np.int32), tokens.shape)
    return jnp.asarray(tokens), jnp.asarray(positions), jnp.array(LENGTHS, jnp.int32)


@functools.partial(jax.jit, static_argnums=0)
def _forward(model, params, tokens, positions, lengths, cache=None):
    return model.apply({"params": params}, tokens, positions, lengths, cache)


@functools.partial(jax.jit, static_argnums=0)
def _gradient(model, params, tokens, positions, lengths):
    """The logits, and the gradient of the summed logp of all true tokens."""

    def total(params):
        hidden, _ = model.apply({"params": params}, tokens, positions, lengths)
        logits = model.kernels.logits(hidden, head_kernel(params, model.config))
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits)[:, :-1], tokens[:, 1:, None], axis=-1)[..., 0]
        return jnp.sum(jnp.where(positions[:, 1:] < lengths[:, None], chosen, 0.0)), logits

    gradient, logits = jax.grad(total, has_aux=True)(params)
    return logits, gradient


@pytest.fixture(params=sorted(SHAPES))
def pair(request, tmp_path):
    reference = make_torch(request.param, tmp_path / "model")
    config = read_config(tmp_path / "model")
    return reference, config, load_params(tmp_path / "model", config), tmp_path


@pytest.mark.parametrize("platform", [pytest.param("cpu", marks=pytest.mark.check), "gpu"])
def test_logits_and_gradients_equal_torch(pair, platform):
    reference, config, params, folder = pair
    tokens, positions, lengths = _rows(config.vocab_size)
    total = 0.0
    wanted = []
    for row, length in zip(np.asarray(tokens), LENGTHS, strict=True):
        ids = torch.tensor(row[None, :length], dtype=torch.long)
        logits = reference(ids).logits
        total = total + torch.log_softmax(logits, -1)[0, :-1].gather(1, ids[0, 1:, None]).sum()
        wanted.append(logits[0].detach().numpy())
    total.backward()
    logits, gradient = _gradient(Qwen2(config, kernels=training_kernels(platform)), params, tokens, positions, lengths)
    for row, want in zip(np.asarray(logits), wanted, strict=True):
        np.testing.assert_allclose(row[: len(want)], want, rtol=0, atol=1e-4)
    save_params(folder / "gradient", gradient, config)
    theirs = {name: weight.grad.numpy() for name, weight in reference.named_parameters()}
    found = load_file(folder / "gradient" / "model.safetensors")
    assert set(found) == set(theirs)
    for name, want in theirs.items():
        atol = 1e-4 * np.abs(want).max()
        np.testing.assert_allclose(found[name], want, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_greedy_tokens_equal_generate_for_prompts_of_unequal_lengths(shape, platform, tmp_path):
    # Layers with more weight than the input token: a model that repeats itself would hide most errors.
    reference = make_torch(shape, tmp_path, matrices=0.3, embedding=0.05)
    config = read_config(tmp_path)
    kernels = decode_kernels(platform)
    params = kernels.store_params(unstack(load_params(tmp_path, config), config.num_hidden_layers))
    model = Qwen2(config, scan_layers=False, kernels=kernels)
    prompts, lengths, new = np.asarray(_rows(config.vocab_size)[0])[:2, :9], np.array([9, 4]), 128
    wanted = []
    for prompt, length in zip(prompts, lengths, strict=True):
        ids = torch.tensor(prompt[None, :length], dtype=torch.long)
        whole = reference.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
        wanted.append(whole[0, length:].tolist())
    assert min(len(set(row)) for row in wanted) > 3

    positions = jnp.broadcast_to(jnp.arange(prompts.shape[1]), prompts.shape)
    cache = kernels.cache.init(config, len(prompts), 160, np.float32)
    hidden, cache = _forward(model, params, jnp.asarray(prompts), positions, jnp.asarray(lengths), cache)
    hidden, position, found = hidden[np.arange(len(prompts)), lengths - 1], jnp.asarray(lengths)[:, None], []
    while True:
        tokens = jnp.argmax(hidden @ head_kernel(params, config).T, axis=-1).astype(jnp.int32)[:, None]
        found.append(tokens[:, 0])
        if len(found) == new:
            break
        hidden, cache = _forward(model, params, tokens, position, position[:, 0] + 1, cache)
        hidden, position = hidden[:, 0], position + 1
    assert np.stack(found, axis=1).tolist() == wanted


@pytest.mark.parametrize("shape", ["grouped", "qwen3 with its own head size"])
def test_logits_and_gradients_on_four_devices_equal_those_on_one(shape, tmp_path):
    make_torch(shape, tmp_path)
    config = read_config(tmp_path)
    mesh = make_mesh(MeshSpec(data=1, fsdp=2, tensor=2))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_params(Qwen2(config), mesh))
    four = load_params(tmp_path, config, shardings=shardings)
    assert len(four["layers"]["mlp"]["up"]["kernel"].sharding.device_set) == 4
    assert four["layers"]["mlp"]["up"]["kernel"].addressable_shards[0].data.shape == (2, 16, 28)
    one = _gradient(Qwen2(config), load_params(tmp_path, config), *_rows(config.vocab_size))
    other = _gradient(Qwen2(config), four, *_rows(config.vocab_size))
    for want, got in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.check
@pytest.mark.parametrize("platform", PLATFORMS)
def test_unrolled_padded_and_cached_equal_the_full_forward_pass(platform, tmp_path):
    make_torch("grouped", tmp_path)
    config = read_config(tmp_path)
    scanned = load_params(tmp_path, config)
    kernels = decode_kernels(platform)
    params = kernels.store_params(unstack(scanned, config.num_hidden_layers))
    model = Qwen2(config, scan_layers=False, kernels=kernels)
    tokens, positions, lengths = _rows(config.vocab_size)
    full, _ = _forward(Qwen2(config), scanned, tokens, positions, lengths)
    alone, _ = _forward(model, params, tokens[1:2, : LENGTHS[1]], positions[1:2, : LENGTHS[1]], lengths[1:2])
    np.testing.assert_allclose(alone[0], full[1, : LENGTHS[1]], atol=1e-5)
    start = jnp.array([5, 3, 4])
    cache = kernels.cache.init(config, len(LENGTHS), 32, np.float32)
    first, cache = _forward(model, params, tokens[:, :5], positions[:, :5], start, cache)
    for row, length in enumerate(start.tolist()):
        np.testing.assert_allclose(first[row, :length], full[row, :length], atol=1e-5)
    for step in range(3):
        position = start + step  # every row at its own position
        token = jnp.take_along_axis(tokens, position[:, None], axis=1)
        hidden, cache = _forward(model, params, token, position[:, None], position + 1, cache)
        wanted = jnp.take_along_axis(full, position[:, None, None], axis=1)
        np.testing.assert_allclose(hidden, wanted, atol=1e-5)


def test_stack_and_unstack_are_exact_inverses(tmp_path):
    make_torch("grouped", tmp_path)
    config = read_config(tmp_path)
    params = load_params(tmp_path, config)
    unrolled = unstack(params, config.num_hidden_layers)
    assert jax.tree.all(jax.tree.map(np.array_equal, params, stack(unrolled, config.num_hidden_layers)))
    assert jax.tree.structure(params) == jax.tree.structure(stack(unrolled, config.num_hidden_layers))
    up = [unrolled[f"layers_{i}"]["mlp"]["up"]["kernel"] for i in range(config.num_hidden_layers)]
    assert not np.array_equal(*up)


@pytest.mark.parametrize("shape", ["tied", "qwen3 with its own head size"])
def test_torch_loads_weights_saved_without_a_source_folder(shape, tmp_path):
    reference = make_torch(shape, tmp_path / "model")
    config = read_config(tmp_path / "model")
    save_params(tmp_path / "again", load_params(tmp_path / "model", config), config)
    assert read_config(tmp_path / "again") == config
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    ids = torch.tensor(np.asarray(_rows(config.vocab_size)[0]), dtype=torch.long)
    with torch.no_grad():
        assert torch.equal(
            again(ids).logits, transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")(ids).logits
        )
    assert reference.config.tie_word_embeddings == again.config.tie_word_embeddings
    assert json.loads((tmp_path / "again" / "config.json").read_text())["torch_dtype"] == "float32"

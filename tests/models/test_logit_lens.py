"""Hidden states and logit lens equal those of torch; at the last layer the lens equals the model."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from models.convert import load_params
from models.folder import read_config
from models.logit_lens import apply_logit_lens
from models.params import head_kernel, unstack
from models.qwen2 import Qwen2

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LENGTHS = (13, 5, 9)
LAYERS, TOP = (2, 0), 4
torch.set_num_threads(1)


@pytest.fixture(params=["qwen2", "qwen3"], scope="module")
def pair(request, tmp_path_factory):
    """A torch model with random norms and biases, our config and parameters, tokens, and the lens of our model."""
    folder = tmp_path_factory.mktemp("model")
    more = {"head_dim": 12, "tie_word_embeddings": True} if request.param == "qwen3" else {"tie_word_embeddings": False}
    torch.manual_seed(3)
    reference = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(request.param, **SIZES, **more), attn_implementation="eager"
    ).eval()
    for name, weight in reference.named_parameters():
        torch.nn.init.normal_(weight, 1.0 if "norm" in name else 0.0, 0.3 if weight.ndim == 1 else 0.15)
    reference.save_pretrained(folder)
    config = read_config(folder)
    params = load_params(folder, config)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (3, max(LENGTHS))).astype(np.int32)
    lens = jax.jit(partial(apply_logit_lens, Qwen2(config, scan_layers=False), layers=LAYERS, top=TOP))
    outputs = lens(unstack(params, config.num_hidden_layers), jnp.asarray(tokens), jnp.array(LENGTHS, jnp.int32))
    return reference, config, params, tokens, outputs


def test_hidden_states_and_lens_equal_torch(pair):
    reference, _, _, tokens, outputs = pair
    last = []
    reference.model.layers[-1].register_forward_hook(lambda module, given, out: last.append(out))
    for row, length in enumerate(LENGTHS):
        with torch.no_grad():
            ids = torch.tensor(tokens[row : row + 1, :length], dtype=torch.long)
            theirs = reference(ids, output_hidden_states=True)
            # the last of torch's hidden states is normed; a hook captures it before the norm
            streams = [last[-1], theirs.hidden_states[1]]
            lens = [torch.log_softmax(reference.lm_head(reference.model.norm(stream))[0], -1) for stream in streams]
        np.testing.assert_allclose(outputs.final[row, :length], theirs.hidden_states[-1][0], rtol=0, atol=1e-4)
        for index, (stream, logp) in enumerate(zip(streams, lens, strict=True)):
            np.testing.assert_allclose(outputs.hidden[row, index, :length], stream[0], rtol=0, atol=1e-4)
            wanted = torch.topk(logp, TOP)
            np.testing.assert_allclose(outputs.top_logp[row, index, :length], wanted.values, rtol=0, atol=1e-4)
            assert np.array_equal(outputs.top_tokens[row, index, :length], wanted.indices)


def test_lens_of_the_last_layer_equals_the_model(pair):
    _, config, params, tokens, outputs = pair
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden, _ = Qwen2(config).apply({"params": params}, jnp.asarray(tokens), positions, jnp.array(LENGTHS, jnp.int32))
    logp = jax.nn.log_softmax(jnp.einsum("btd,vd->btv", hidden, head_kernel(params, config)))
    expected_logp, expected_tokens = jax.lax.top_k(logp, TOP)
    for row, length in enumerate(LENGTHS):
        assert np.array_equal(outputs.top_tokens[row, 0, :length], expected_tokens[row, :length])
        np.testing.assert_allclose(outputs.top_logp[row, 0, :length], expected_logp[row, :length], rtol=0, atol=1e-5)


@pytest.mark.parametrize("layers", [(3,), (0, -1), ()])
def test_unknown_layers_are_rejected(pair, layers):
    _, config, params, tokens, _ = pair
    model = Qwen2(config, scan_layers=False)
    with pytest.raises(ValueError, match="layers from 0 to 2"):
        apply_logit_lens(model, unstack(params, 3), jnp.asarray(tokens), jnp.array(LENGTHS, jnp.int32), layers, TOP)
    with pytest.raises(ValueError, match="scan_layers=False"):
        apply_logit_lens(Qwen2(config), params, jnp.asarray(tokens), jnp.array(LENGTHS, jnp.int32), (0,), TOP)

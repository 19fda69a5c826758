"""What is seen inside is what torch holds inside; at the last layer the lens is the model's own distribution."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from models.convert import load_params
from models.folder import read_config
from models.logit_lens import look_inside
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
    """A random torch model with norms and biases away from their start, ours of the same weights, and its sight."""
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
    look = jax.jit(partial(look_inside, Qwen2(config, scan_layers=False), layers=LAYERS, top=TOP))
    seen = look(unstack(params, config.num_hidden_layers), jnp.asarray(tokens), jnp.array(LENGTHS, jnp.int32))
    return reference, config, params, tokens, seen


def test_hidden_states_and_lens_are_those_of_torch(pair):
    reference, _, _, tokens, seen = pair
    last = []
    reference.model.layers[-1].register_forward_hook(lambda module, given, out: last.append(out))
    for row, length in enumerate(LENGTHS):
        with torch.no_grad():
            ids = torch.tensor(tokens[row : row + 1, :length], dtype=torch.long)
            theirs = reference(ids, output_hidden_states=True)
            # the last of their hidden states is normed; before the norm only a hook sees it
            streams = [last[-1], theirs.hidden_states[1]]
            lens = [torch.log_softmax(reference.lm_head(reference.model.norm(stream))[0], -1) for stream in streams]
        np.testing.assert_allclose(seen.final[row, :length], theirs.hidden_states[-1][0], rtol=0, atol=1e-4)
        for place, (stream, logp) in enumerate(zip(streams, lens, strict=True)):
            np.testing.assert_allclose(seen.hidden[row, place, :length], stream[0], rtol=0, atol=1e-4)
            wanted = torch.topk(logp, TOP)
            np.testing.assert_allclose(seen.top_logp[row, place, :length], wanted.values, rtol=0, atol=1e-4)
            assert np.array_equal(seen.top_tokens[row, place, :length], wanted.indices)


def test_the_lens_of_the_last_layer_is_the_model(pair):
    _, config, params, tokens, seen = pair
    places = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden, _ = Qwen2(config).apply({"params": params}, jnp.asarray(tokens), places, jnp.array(LENGTHS, jnp.int32))
    logp = jax.nn.log_softmax(jnp.einsum("btd,vd->btv", hidden, head_kernel(params, config)))
    own, chosen = jax.lax.top_k(logp, TOP)
    for row, length in enumerate(LENGTHS):
        assert np.array_equal(seen.top_tokens[row, 0, :length], chosen[row, :length])
        np.testing.assert_allclose(seen.top_logp[row, 0, :length], own[row, :length], rtol=0, atol=1e-5)


@pytest.mark.parametrize("layers", [(3,), (0, -1), ()])
def test_layers_that_there_are_not(pair, layers):
    _, config, params, tokens, _ = pair
    model = Qwen2(config, scan_layers=False)
    with pytest.raises(ValueError, match="layers from 0 to 2"):
        look_inside(model, unstack(params, 3), jnp.asarray(tokens), jnp.array(LENGTHS, jnp.int32), layers, TOP)
    with pytest.raises(ValueError, match="scan_layers=False"):
        look_inside(Qwen2(config), params, jnp.asarray(tokens), jnp.array(LENGTHS, jnp.int32), (0,), TOP)

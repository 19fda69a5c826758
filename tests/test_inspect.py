"""The command writes what the documentation says, whatever the batch, whole or not at all."""

import json

import jax
import numpy as np
import pytest

from jaxrl import inspect
from jaxrl.base_model.trainer import save_base
from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.learning.state import init_params
from models.config import Qwen2Config
from models.qwen2 import Qwen2
from models.tokenizer import load_tokenizer
from models.vocabulary import build_tokenizer

CONFIG = Qwen2Config(288, 16, 32, 3, 2, 1, 8, rope_theta=1e4, tie_word_embeddings=True, max_position_embeddings=64)
ASKED = [
    {"id": "a", "prompt": "Ann says"},
    {"id": 2, "messages": [{"role": "user", "content": "Bob?"}]},
    {"id": "c", "prompt": "Who is", "response": " what?"},
    *({"id": f"d{n}", "prompt": "Bob" * n} for n in (1, 2)),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    params = init_params(Qwen2(CONFIG), make_mesh(MeshSpec(data=1), jax.devices()[:1]), jax.random.key(3))
    save_base(folder, params, CONFIG, build_tokenizer(["Ann says: Bob is a knave. Who is what?"], 288))
    return folder


def run(model, folder, *more, asked=ASKED):
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(line) + "\n" for line in asked), encoding="utf-8")
    return inspect.main([f"--model={model}", f"--prompts={prompts}", f"--output={folder / 'out.npz'}", *more])


def arrays(folder):
    with np.load(folder / "out.npz") as stored:
        return dict(stored)


def test_arrays_are_those_of_each_text_alone(model, tmp_path):
    assert run(model, tmp_path, "--layers=2,0", "--top=3", "--batch=4") == 0
    found = arrays(tmp_path)
    tokenizer = load_tokenizer(model)
    words = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("Who is", " what?")]
    longest = found["tokens"].shape[1]
    assert found["ids"].tolist() == ["a", "2", "c", "d1", "d2"]
    assert found["tokens"][2].tolist() == words[0] + words[1] + [-1] * (longest - found["lengths"][2])
    assert (found["prompt_lengths"][2], found["lengths"][2]) == (len(words[0]), len(words[0]) + len(words[1]))
    assert found["hidden"].shape == (5, 2, longest, 16) and found["final"].shape == (5, longest, 16)
    assert found["lens_tokens"].shape == found["lens_logp"].shape == (5, 2, longest, 3)
    assert found["layers"].tolist() == [2, 0]
    for place, length in enumerate(found["lengths"]):
        assert (found["lens_tokens"][place, :, length:] == -1).all() and not found["hidden"][place, :, length:].any()
        assert (found["lens_tokens"][place, :, :length] >= 0).all() and found["final"][place, :length].any()
    for place, length in ((2, found["lengths"][2]), (4, found["lengths"][4])):
        assert run(model, tmp_path, "--layers=0,2", "--top=3", asked=ASKED[place : place + 1]) == 0
        alone = arrays(tmp_path)
        for name in ("hidden", "lens_logp"):
            np.testing.assert_allclose(alone[name][0][::-1], found[name][place, :, :length], rtol=0, atol=1e-5)
        np.testing.assert_allclose(alone["final"][0], found["final"][place, :length], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("more", "asked", "said"),
    [
        (["--layers=0,3"], ASKED, "layers from 0 to 2, got 0, 3"),
        (["--top=289"], ASKED, "a top from 1 to 288"),
        ([], [{"id": 1, "prompt": ""}], "prompt '1': expected 1 to 64 tokens"),
        ([], [{"id": 1, "prompt": "Bob? " * 99}], "prompt '1': expected 1 to 64 tokens"),
        ([], [{"id": 1, "prompt": "Bob", "response": ["x"]}], "prompt 1: expected `response` to be a text"),
    ],
)
def test_what_can_not_be_seen_is_refused(model, tmp_path, capsys, more, asked, said):
    assert run(model, tmp_path, *more, asked=asked) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]


def test_a_checkpoint_is_named_as_export_names_it():
    given = ["--prompts=P", "--output=O"]
    assert inspect._parse(["--checkpoint=RUN@3", *given]) == inspect._parse(["--model=RUN@3", *given])

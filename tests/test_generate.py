"""Completions for a file of prompts: interrupted files are gone on with, and nothing foreign is written over."""

import json

import jax
import pytest

from jaxrl import generate
from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.learning.state import init_params
from jaxrl.running.supervised import save_base
from models.config import Qwen2Config
from models.qwen2 import Qwen2
from models.vocabulary import build_tokenizer

CONFIG = Qwen2Config(288, 16, 32, 2, 2, 1, 8, rope_theta=1e4, tie_word_embeddings=True, max_position_embeddings=256)
ASKED = [{"id": "a", "prompt": "Ann says"}, {"id": 2, "messages": [{"role": "user", "content": "Bob?"}]},
         {"id": "c", "prompt": "Who is what?"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    params = init_params(Qwen2(CONFIG), make_mesh(MeshSpec(data=1), jax.devices()[:1]), jax.random.key(3))
    save_base(folder, params, CONFIG, build_tokenizer(["Ann says: Bob is a knave. Who is what?"], 288))
    return folder


def run(model, folder, *more, asked=ASKED):
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(line) + "\n" for line in asked), encoding="utf-8")
    return generate.main([f"--model={model}", f"--prompts={prompts}", f"--output={folder / 'out.jsonl'}",
                          "--max-new-tokens=6", "--dtype=float32", "--batch=2", *more])


def records(folder):
    return [json.loads(line) for line in (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()]


def test_an_interrupted_file_ends_as_a_whole_one(model, tmp_path, capsys):
    assert run(model, tmp_path, "--samples=2") == 0
    whole = (tmp_path / "out.jsonl").read_bytes()
    found = records(tmp_path)
    assert [(line["id"], line["sample"]) for line in found] == [(name, n) for name in ("a", "2", "c") for n in (0, 1)]
    assert all(len(line["tokens"]) == len(line["logp"]) <= 6 and line["finish"] in ("stop", "length") for line in found)
    for cut in (len(whole) - 5, whole.index(b'"c"') + 30, 40):
        (tmp_path / "out.jsonl").write_bytes(whole[:cut])
        assert run(model, tmp_path, "--samples=2") == 0
        assert (tmp_path / "out.jsonl").read_bytes() == whole
    assert "prompts are in" in capsys.readouterr().out


def test_other_files_stay_as_they_are(model, tmp_path, capsys):
    (tmp_path / "out.jsonl").write_text('{"thesis": 1}\n')
    assert run(model, tmp_path) == 2
    assert (tmp_path / "out.jsonl").read_text() == '{"thesis": 1}\n'
    assert "line 1, is not of this command" in capsys.readouterr().err


@pytest.mark.parametrize(("asked", "said"), [
    ([{"prompt": "x"}], "prompt 1: expected an `id`"), ([ASKED[0], ASKED[0]], "prompt 2: expected an `id` of its own"),
    ([{"id": 1, "prompt": "x", "messages": []}], "either `prompt` or `messages`"), ([], "holds no prompt"),
])
def test_bad_prompts_are_named(model, tmp_path, capsys, asked, said):
    assert run(model, tmp_path, asked=asked) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()

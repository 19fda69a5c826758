"""`jaxrl.inspect` writes the documented arrays, for any batch size, completely or not at all."""

import json

import numpy as np
import pytest

from jaxrl import inspect
from models.tokenizer import load_tokenizer

PROMPTS = [
    {"id": "a", "prompt": "Ann says"},
    {"id": 2, "messages": [{"role": "user", "content": "Bob?"}]},
    {"id": "c", "prompt": "Who is", "response": " what?"},
    *({"id": f"d{n}", "prompt": "Bob" * n} for n in (1, 2)),
]


def run(model, folder, *more, prompts=PROMPTS):
    file = folder / "prompts.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in prompts), encoding="utf-8")
    return inspect.main([f"--model={model}", f"--prompts={file}", f"--output={folder / 'out.npz'}", *more])


def arrays(folder):
    with np.load(folder / "out.npz") as file:
        return dict(file)


def test_arrays_are_those_of_each_text_alone(small, tmp_path):
    assert run(small.base, tmp_path, "--layers=1,0", "--top=3", "--batch=4") == 0
    stored = arrays(tmp_path)
    tokenizer = load_tokenizer(small.base)
    prompt, response = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("Who is", " what?"))
    longest, lengths = stored["tokens"].shape[1], stored["lengths"]
    assert stored["ids"].tolist() == ["a", "2", "c", "d1", "d2"]
    assert stored["tokens"][2].tolist() == prompt + response + [-1] * (longest - lengths[2])
    assert (stored["prompt_lengths"][2], lengths[2]) == (len(prompt), len(prompt) + len(response))
    assert stored["hidden"].shape == (5, 2, longest, 16) and stored["final"].shape == (5, longest, 16)
    assert stored["lens_tokens"].shape == stored["lens_logp"].shape == (5, 2, longest, 3)
    assert stored["layers"].tolist() == [1, 0]
    for text, length in enumerate(lengths):
        assert (stored["lens_tokens"][text, :, length:] == -1).all() and not stored["hidden"][text, :, length:].any()
        assert (stored["lens_tokens"][text, :, :length] >= 0).all() and stored["final"][text, :length].any()
    for text in (2, 4):
        assert run(small.base, tmp_path, "--layers=0,1", "--top=3", prompts=PROMPTS[text : text + 1]) == 0
        alone = arrays(tmp_path)
        for name in ("hidden", "lens_logp"):
            np.testing.assert_allclose(alone[name][0][::-1], stored[name][text, :, : lengths[text]], rtol=0, atol=1e-5)
        np.testing.assert_allclose(alone["final"][0], stored["final"][text, : lengths[text]], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("more", "prompts", "sentence"),
    [
        (["--layers=0,2"], PROMPTS, "layers from 0 to 1, got 0, 2"),
        (["--top=289"], PROMPTS, "a top from 1 to 288"),
        (["--batch=0"], PROMPTS, "a --batch of 1 or more"),
        ([], [{"id": 1, "prompt": ""}], "prompt '1': expected 1 to 256 tokens"),
        ([], [{"id": 1, "prompt": "Bob? " * 199}], "prompt '1': expected 1 to 256 tokens"),
        ([], [{"id": 1, "prompt": "Bob", "response": ["x"]}], "prompt 1: expected `response` to be a text"),
    ],
)
def test_wrong_input_is_refused(small, tmp_path, capsys, more, prompts, sentence):
    assert run(small.base, tmp_path, *more, prompts=prompts) == 2
    assert sentence in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]


def test_a_checkpoint_is_named_as_export_names_it():
    parser, others = inspect.make_parser(), ["--prompts=P", "--output=O"]
    assert parser.parse_args(["--checkpoint=RUN@3", *others]) == parser.parse_args(["--model=RUN@3", *others])

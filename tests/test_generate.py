"""Completions for a file of prompts: interrupted files are gone on with, and nothing is written over."""

import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxrl import generate
from jaxrl.base_model.trainer import save_base
from jaxrl.inference import load as policies
from jaxrl.learning.mesh import MeshSpec, make_mesh
from jaxrl.learning.state import init_params
from jaxrl.sampling import Completions, StopStrings
from models.config import Qwen2Config
from models.qwen2 import Qwen2
from models.tokenizer import load_tokenizer
from models.vocabulary import build_tokenizer

CONFIG = Qwen2Config(288, 16, 32, 2, 2, 1, 8, rope_theta=1e4, tie_word_embeddings=True, max_position_embeddings=256)
ASKED = [
    {"id": "a", "prompt": "Ann says"},
    {"id": 2, "messages": [{"role": "user", "content": "Bob?"}]},
    {"id": "c", "prompt": "Who is what?"},
]
MESSAGES = "to be one or more objects with a `role` and a `content` that are text"


@pytest.fixture(autouse=True)
def _cache_elsewhere(monkeypatch, tmp_path):
    """The command's own folder of compiled programs is not this user's, and not that of the tests after it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def no_weights(monkeypatch):
    """Nothing may be loaded."""

    def load_policy(*_):
        pytest.fail("weights are loaded")

    monkeypatch.setattr(policies, "load_policy", load_policy)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    params = init_params(Qwen2(CONFIG), make_mesh(MeshSpec(data=1), jax.devices()[:1]), jax.random.key(3))
    save_base(folder, params, CONFIG, build_tokenizer(["Ann says: Bob is a knave. Who is what?"], 288))
    return folder


def run(model, folder, *more, asked=ASKED):
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(line) + "\n" for line in asked), encoding="utf-8")
    return generate.main(
        [
            f"--model={model}",
            f"--prompts={prompts}",
            f"--output={folder / 'out.jsonl'}",
            "--samples=2",
            "--max-new-tokens=6",
            "--dtype=float32",
            "--batch=2",
            *more,
        ]
    )


def records(folder):
    return [json.loads(line) for line in (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def drawn(model, tmp_path_factory):
    """The folder of a command that nothing disturbed."""
    folder = tmp_path_factory.mktemp("drawn")
    assert run(model, folder) == 0
    return folder


@pytest.fixture
def begun(drawn, tmp_path):
    """Its output, to go on with elsewhere."""
    for name in ("out.jsonl", "out.jsonl.settings.json"):
        (tmp_path / name).write_bytes((drawn / name).read_bytes())
    return tmp_path


def test_lines_are_as_they_were_asked_for(model, drawn):
    """Ids as they were given; the text is that of the tokens."""
    found, tokenizer = records(drawn), load_tokenizer(model)
    assert [(line["id"], line["sample"]) for line in found] == [(name, n) for name in ("a", 2, "c") for n in (0, 1)]
    for line in found:
        assert len(line["tokens"]) == len(line["logp"]) == 6 and line["finish"] == "length"
        assert line["text"] == tokenizer.decode(line["tokens"], skip_special_tokens=False) != ""
    assert json.loads((drawn / "out.jsonl.settings.json").read_text())["model"] == str(model.resolve())


def test_text_leaves_out_the_end_token_and_what_follows_a_stop_string(model):
    tokenizer = load_tokenizer(model)
    end = tokenizer.eos_token_id
    ids = tokenizer("Ann says: Bob", add_special_tokens=False)["input_ids"]
    tokens = np.zeros((2, len(ids) + 1), np.int32)
    tokens[:, : len(ids)], tokens[0, len(ids)] = ids, end
    completions = Completions(
        tokens,
        np.array([len(ids) + 1, len(ids)]),
        np.array([True, False]),
        np.zeros(tokens.shape),
        np.zeros(tokens.shape),
        1.0,
    )
    for strings, text in (((), "Ann says: Bob"), ((": ", "ob"), "Ann says")):
        stop = StopStrings(strings, tokenizer.decode)
        found = generate._records([("x", [1])], completions, (end,), stop)
        assert [line["text"] for line in found] == [text, text]
        assert [line["tokens"] for line in found] == [[*ids, end], ids]
        assert [line["finish"] for line in found] == ["stop", "length"]


def test_an_interrupted_file_ends_as_a_whole_one(model, begun, capsys):
    """Whole lines stay as they are, even those of a prompt whose samples are not all there."""
    path = begun / "out.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 5])
    assert run(model, begun) == 0
    assert path.read_bytes() == whole
    said = capsys.readouterr().out
    assert "2 of 3 prompts are in" in said and "programs compiled, or taken from ~/.cache/jaxrl: " in said
    lines = whole.splitlines(keepends=True)
    lines[2] = json.dumps(json.loads(lines[2]) | {"text": "as it stands"}).encode() + b"\n"
    path.write_bytes(b"".join(lines[:3]) + lines[3][:40])
    assert run(model, begun) == 0
    assert path.read_bytes() == b"".join(lines)


def test_a_finished_file_asks_for_no_weights(model, begun, no_weights, capsys):
    assert run(model, begun) == 0
    assert "3 of 3 prompts are in" in capsys.readouterr().out


def test_other_files_stay_as_they_are(model, tmp_path, no_weights, capsys):
    (tmp_path / "out.jsonl").write_text('{"thesis": 1}\n' * 3)
    assert run(model, tmp_path) == 2
    assert (tmp_path / "out.jsonl").read_text() == '{"thesis": 1}\n' * 3
    assert "no out.jsonl.settings.json that says how its lines were drawn" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--samples=3", "samples (there 2, now 3)"),
        ("--seed=1", "seed (there 0, now 1)"),
        ("--temperature=0.5", "temperature (there 1.0, now 0.5)"),
        ("--top-k=3", "top_k (there 0, now 3)"),
        ("--top-p=0.5", "top_p (there 1.0, now 0.5)"),
        ("--min-p=0.5", "min_p (there 0.0, now 0.5)"),
        ("--stop=x", "stop (there [], now ['x'])"),
        ("--max-new-tokens=7", "max_new_tokens (there 6, now 7)"),
        ("--dtype=bfloat16", "dtype (there 'float32', now 'bfloat16')"),
    ],
)
def test_a_file_of_other_settings_is_refused_by_field(model, begun, no_weights, capsys, more, said):
    before = (begun / "out.jsonl").read_bytes()
    assert run(model, begun, more) == 2
    assert f"was begun with other settings: {said}; set them back" in capsys.readouterr().err
    assert (begun / "out.jsonl").read_bytes() == before


def test_a_file_of_other_prompts_is_refused(model, begun, no_weights, capsys):
    """A prompt's place is one of its coordinates, so the same prompts in another order are others."""
    for asked in (ASKED[::-1], [ASKED[0] | {"prompt": "Bob says"}, *ASKED[1:]]):
        assert run(model, begun, asked=asked) == 2
        assert "other settings: prompts_hash (there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ([{"prompt": "x"}], "prompt 1: expected an `id`"),
        ([ASKED[0], ASKED[0]], "prompt 2: expected an `id` of its own"),
        ([{"id": 1, "prompt": "x", "messages": []}], "either `prompt` or `messages`"),
        ([], "holds no prompt"),
        ([ASKED[0], {"id": "\ud83d", "prompt": "x"}], r"prompt 2: expected an `id` of its own and"),
        ([ASKED[0], {"id": 7, "prompt": "Bob? " * 199}], "prompt 7: expected 1 to 250 tokens"),
        ([ASKED[0], {"id": "e", "prompt": ""}], "prompt 'e': expected 1 to 250 tokens"),
        *(
            (
                [ASKED[0], {"id": "e"} | line],
                f"prompt 2: expected `prompt` to be text, or `messages` {MESSAGES}, got {said}.",
            )
            for line, said in (
                ({"prompt": ["a", "b"]}, '["a", "b"]'),
                ({"prompt": 5}, "5"),
                ({"prompt": None}, "null"),
                ({"prompt": "\ud83d"}, r'"\ud83d"'),
                ({"messages": 5}, "5"),
                ({"messages": "hi"}, '"hi"'),
                ({"messages": []}, "[]"),
                ({"messages": ["hi"]}, '["hi"]'),
                ({"messages": [{"x": 1}]}, '[{"x": 1}]'),
                ({"messages": [{"role": "user", "content": None}]}, '[{"role": "user", "content": null}]'),
            )
        ),
    ],
)
def test_bad_prompts_are_named(model, tmp_path, no_weights, capsys, asked, said):
    assert run(model, tmp_path, asked=asked) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--top-p=0", "top_p must lie in (0, 1]"),
        ("--temperature=-1", "temperature must lie in"),
        ("--max-new-tokens=0", "max_new_tokens must lie in [1"),
        ("--min-p=2", "min_p must lie in"),
    ],
)
def test_bad_settings_are_refused_before_a_model_is_looked_for(tmp_path, monkeypatch, capsys, more, said):
    monkeypatch.setattr(policies, "find_model", lambda _: pytest.fail("a model is looked for"))
    assert run("/no/model", tmp_path, more) == 2
    assert said in capsys.readouterr().err


def test_room_and_stop_strings_are_checked_before_weights_are_read(model, tmp_path, no_weights, capsys):
    for more, said in (("--max-new-tokens=256", "expected less than 256, the positions"), ("--stop=", "none of them")):
        assert run(model, tmp_path, more) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "expected --model, --prompts, --output."),
        (["--replay=RUN"], "expected --step, --prompt, --sample."),
        (["--replay=RUN", "--step=1", "--prompt=0", "--sample=0", "--model=M"], "expected no --model with --replay"),
        (["--model=M", "--prompts=P", "--output=O", "--step=1"], "expected no --step without --replay"),
        *(
            (["--model=M", "--prompts=P", "--output=O", flag], said)
            for flag, said in (
                ("--rows=0", "a --rows of 1 or more, got 0"),
                ("--memory=-1", "a --memory of 0 or more GiB, got -1.0"),
                ("--memory=nan", "--memory of 0 or more"),
                ("--seed=4294967296", "expected a --seed of 0 to 2^32 - 1"),
                ("--batch=0", "a --batch of 1"),
                ("--samples=0", "a --samples of 1"),
            )
        ),
    ],
)
def test_flags_are_checked_first(capsys, more, said):
    with pytest.raises(SystemExit, match="2"):
        generate.main(more)
    assert said in capsys.readouterr().err


def test_messages_are_asked_as_the_chat_template_has_them(model, tmp_path):
    tokenizer, path = load_tokenizer(model), tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in ASKED))
    text = tokenizer.apply_chat_template(ASKED[1]["messages"], tokenize=False, add_generation_prompt=True)
    name, tokens = generate.read_prompts(path, tokenizer)[1]
    assert name == 2 and "Bob?" in text
    assert (
        tokens
        == tokenizer.apply_chat_template(ASKED[1]["messages"], add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]
    )
    assert tokenizer.decode(tokens, skip_special_tokens=False) == text
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="prompt 2: `messages` need a model with a chat template"):
        generate.read_prompts(path, tokenizer)


def test_a_stop_string_ends_a_completion(model, drawn, tmp_path):
    """Everything before the string is as it is without it."""
    whole, tokenizer = records(drawn), load_tokenizer(model)
    string = whole[0]["text"][2:4]
    assert run(model, tmp_path, "--stop", string, "never") == 0
    for line, free in zip(records(tmp_path), whole, strict=True):
        assert line["text"] == free["text"].split(string)[0]
        assert line["finish"] == ("stop" if string in free["text"] else "length")
        count = len(line["tokens"])
        assert line["tokens"] == free["tokens"][:count] and line["logp"] == free["logp"][:count]
        without = [string in tokenizer.decode(free["tokens"][:end]) for end in range(count)]
        assert not any(without) and (count == 6 or string in tokenizer.decode(line["tokens"]))


def test_a_terminal_shows_how_far_a_part_is(model, tmp_path, capsys):
    shown = {}
    for terminal in (True, False):
        folder = tmp_path / str(terminal)
        folder.mkdir()
        file = io.StringIO()
        (folder / "prompts.jsonl").write_text(json.dumps(ASKED[0]) + "\n")
        given = generate._parse(
            [
                f"--model={model}",
                f"--prompts={folder / 'prompts.jsonl'}",
                "--samples=3",
                f"--output={folder / 'out.jsonl'}",
                "--max-new-tokens=2",
                "--dtype=float32",
            ]
        )
        list(generate.complete(given, Console(file=file, force_terminal=terminal, width=100)))
        shown[terminal] = file.getvalue()
    assert "completions" in shown[True] and "3/3" in shown[True] and shown[False] == ""


def test_compiled_programs_are_kept_by_default(model, begun):
    assert run(model, begun) == 0
    assert jax.config.jax_compilation_cache_dir == str(Path.home() / ".cache" / "jaxrl")


@pytest.mark.parametrize(
    ("more", "backend", "rows", "memory"),
    [
        ([], "cpu", None, 2**30),
        ([], "gpu", None, 0),
        (["--rows=16", "--memory=0.5"], "gpu", 16, 2**29),
    ],
)
def test_rows_and_memory_reach_the_sampler(model, tmp_path, monkeypatch, more, backend, rows, memory):
    asked = {}

    def make_sampler(*_, **settings):
        asked.update(settings)
        raise ValueError("enough")

    monkeypatch.setattr(policies, "make_sampler", make_sampler)
    monkeypatch.setattr(policies.jax, "default_backend", lambda: backend)
    assert run(model, tmp_path, *more) == 2
    assert (asked["rows"], asked["memory"], asked["longest"]) == (rows, memory, 6 + longest(model))


def test_full_memory_is_said_with_what_to_do(model, begun, monkeypatch, capsys):
    """What was drawn stays, and fewer rows go on with it; another fault of a device is not taken for it."""
    path = begun / "out.jsonl"
    whole = path.read_bytes()
    half = b"".join(whole.splitlines(keepends=True)[:4])
    path.write_bytes(half)
    with monkeypatch.context() as patch:

        def full(*_):
            raise jax.errors.JaxRuntimeError(said)

        patch.setattr(policies.Sampler, "sample", full)
        said = "RESOURCE_EXHAUSTED: Out of memory\nmuch more"
        assert run(model, begun) == 2
        told = capsys.readouterr().err
        assert "memory is full (RESOURCE_EXHAUSTED: Out of memory); the same command with fewer --rows" in told
        said = "INTERNAL: something else"
        with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
            run(model, begun)
    assert path.read_bytes() == half
    path.write_bytes(whole)
    assert run(model, begun, "--rows=64", "--memory=0", "--batch=1") == 0  # none of the settings


def longest(model):
    tokenizer = load_tokenizer(model)
    chat = tokenizer.apply_chat_template(ASKED[1]["messages"], tokenize=False, add_generation_prompt=True)
    return max(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ("Who is what?", chat))

"""Completions for a file of prompts: interrupted files are resumed, and nothing is overwritten."""

import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxrl import generate
from jaxrl.inference import generate as generation
from jaxrl.inference import load
from jaxrl.inference.generate import GenerationSpec, complete_file, completion_records
from jaxrl.inference.prompt_files import read_prompts
from jaxrl.sampling import Completions, StopStrings
from models.tokenizer import load_tokenizer

PROMPTS = [
    {"id": "a", "prompt": "Ann says"},
    {"id": 2, "messages": [{"role": "user", "content": "Bob?"}]},
    {"id": "c", "prompt": "Who is what?"},
]
MESSAGES = "to be one or more objects with a `role` and a `content` that are text"


@pytest.fixture(autouse=True)
def compile_cache(monkeypatch, tmp_path):
    """The command sets the folder of compiled programs, which must not be the user's."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def no_weights(monkeypatch):
    """Fails if weights are loaded."""

    def load_policy(*_):
        pytest.fail("weights are loaded")

    monkeypatch.setattr(generation, "load_policy", load_policy)


@pytest.fixture(scope="module")
def model(small):
    return small.base


def run(model, folder, *more, prompts=PROMPTS):
    file = folder / "prompts.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in prompts), encoding="utf-8")
    return generate.main(
        [
            f"--model={model}",
            f"--prompts={file}",
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
def completed(model, tmp_path_factory):
    """The folder of a command that was not interrupted."""
    folder = tmp_path_factory.mktemp("completed")
    assert run(model, folder) == 0
    return folder


@pytest.fixture
def copied(completed, tmp_path):
    """A copy of its output."""
    for name in ("out.jsonl", "out.jsonl.settings.json"):
        (tmp_path / name).write_bytes((completed / name).read_bytes())
    return tmp_path


def test_lines_are_in_the_order_of_prompts_and_samples(model, completed):
    """Ids keep their types; the text is that of the tokens."""
    lines, tokenizer = records(completed), load_tokenizer(model)
    assert [(line["id"], line["sample"]) for line in lines] == [(name, n) for name in ("a", 2, "c") for n in (0, 1)]
    for line in lines:
        assert len(line["tokens"]) == len(line["logp"]) == 6 and line["finish"] == "length"
        assert line["text"] == tokenizer.decode(line["tokens"], skip_special_tokens=False) != ""
    assert json.loads((completed / "out.jsonl.settings.json").read_text())["model"] == str(model.resolve())


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
        lines = completion_records([("x", [1])], completions, (end,), stop)
        assert [line["text"] for line in lines] == [text, text]
        assert [line["tokens"] for line in lines] == [[*ids, end], ids]
        assert [line["finish"] for line in lines] == ["stop", "length"]


def test_an_interrupted_file_is_resumed(model, copied, capsys):
    """Complete lines are kept, even those of a prompt with missing samples."""
    path = copied / "out.jsonl"
    complete = path.read_bytes()
    path.write_bytes(complete[: len(complete) - 5])
    assert run(model, copied) == 0
    assert path.read_bytes() == complete
    shown = capsys.readouterr().out
    assert "2 of 3 prompts are in" in shown and "programs compiled, or loaded from the cache: " in shown
    lines = complete.splitlines(keepends=True)
    lines[2] = json.dumps(json.loads(lines[2]) | {"text": "edited"}).encode() + b"\n"
    path.write_bytes(b"".join(lines[:3]) + lines[3][:40])
    assert run(model, copied) == 0
    assert path.read_bytes() == b"".join(lines)


def test_a_complete_file_needs_no_weights(model, copied, no_weights, capsys):
    assert run(model, copied) == 0
    assert "3 of 3 prompts are in" in capsys.readouterr().out


def test_other_files_are_not_changed(model, tmp_path, no_weights, capsys):
    (tmp_path / "out.jsonl").write_text('{"thesis": 1}\n' * 3)
    assert run(model, tmp_path) == 2
    assert (tmp_path / "out.jsonl").read_text() == '{"thesis": 1}\n' * 3
    assert "its settings file out.jsonl.settings.json is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("--samples=3", "samples (stored 2, now 3)"),
        ("--seed=1", "seed (stored 0, now 1)"),
        ("--temperature=0.5", "temperature (stored 1.0, now 0.5)"),
        ("--top-k=3", "top_k (stored 0, now 3)"),
        ("--top-p=0.5", "top_p (stored 1.0, now 0.5)"),
        ("--min-p=0.5", "min_p (stored 0.0, now 0.5)"),
        ("--stop=x", "stop (stored [], now ['x'])"),
        ("--max-new-tokens=7", "max_new_tokens (stored 6, now 7)"),
        ("--dtype=bfloat16", "dtype (stored 'float32', now 'bfloat16')"),
    ],
)
def test_a_file_of_other_settings_is_refused_by_field(model, copied, no_weights, capsys, more, sentence):
    before = (copied / "out.jsonl").read_bytes()
    assert run(model, copied, more) == 2
    assert f"was started with other settings: {sentence}; use the stored values" in capsys.readouterr().err
    assert (copied / "out.jsonl").read_bytes() == before


def test_a_file_of_other_prompts_is_refused(model, copied, no_weights, capsys):
    """A prompt's index is one of its coordinates, so another order gives other completions."""
    for prompts in (PROMPTS[::-1], [PROMPTS[0] | {"prompt": "Bob says"}, *PROMPTS[1:]]):
        assert run(model, copied, prompts=prompts) == 2
        assert "other settings: prompts_hash (stored" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prompts", "sentence"),
    [
        ([{"prompt": "x"}], "prompt 1: expected a unique `id`"),
        ([PROMPTS[0], PROMPTS[0]], "prompt 2: expected a unique `id`"),
        ([{"id": 1, "prompt": "x", "messages": []}], "either `prompt` or `messages`"),
        ([], "holds no prompt"),
        ([PROMPTS[0], {"id": "\ud83d", "prompt": "x"}], r"prompt 2: expected a unique `id` and"),
        ([PROMPTS[0], {"id": 7, "prompt": "Bob? " * 199}], "prompt 7: expected 1 to 250 tokens"),
        ([PROMPTS[0], {"id": "e", "prompt": ""}], "prompt 'e': expected 1 to 250 tokens"),
        *(
            (
                [PROMPTS[0], {"id": "e"} | line],
                f"prompt 2: expected `prompt` to be text, or `messages` {MESSAGES}, got {value}.",
            )
            for line, value in (
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
def test_bad_prompts_are_named(model, tmp_path, no_weights, capsys, prompts, sentence):
    assert run(model, tmp_path, prompts=prompts) == 2
    assert sentence in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("--top-p=0", "top_p: expected a value in (0, 1]"),
        ("--temperature=-1", "temperature: expected a value in"),
        ("--max-new-tokens=0", "max_new_tokens: expected a value in [1"),
        ("--min-p=2", "min_p: expected a value in"),
    ],
)
def test_wrong_settings_are_refused_before_the_model_is_searched(tmp_path, monkeypatch, capsys, more, sentence):
    monkeypatch.setattr(generation, "find_model", lambda _: pytest.fail("a model is searched"))
    assert run("/no/model", tmp_path, more) == 2
    assert sentence in capsys.readouterr().err


def test_lengths_and_stop_strings_are_checked_before_weights_are_read(model, tmp_path, no_weights, capsys):
    for more, sentence in (
        ("--max-new-tokens=256", "expected less than 256, the model's number of positions"),
        ("--stop=", "stop: expected a sequence of non-empty strings"),
    ):
        assert run(model, tmp_path, more) == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ([], "expected --model, --prompts, --output."),
        (["--replay=RUN"], "expected --step, --prompt, --sample."),
        (["--replay=RUN", "--step=1", "--prompt=0", "--sample=0", "--model=M"], "expected no --model with --replay"),
        (["--model=M", "--prompts=P", "--output=O", "--step=1"], "expected no --step without --replay"),
        *(
            (["--model=M", "--prompts=P", "--output=O", flag], sentence)
            for flag, sentence in (
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
def test_flags_are_checked_first(capsys, more, sentence):
    assert generate.main(more) == 2
    assert sentence in capsys.readouterr().err


def test_messages_are_encoded_with_the_chat_template(model, tmp_path):
    tokenizer, path = load_tokenizer(model), tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in PROMPTS))
    text = tokenizer.apply_chat_template(PROMPTS[1]["messages"], tokenize=False, add_generation_prompt=True)
    name, tokens = read_prompts(path, tokenizer)[1]
    assert name == 2 and "Bob?" in text
    assert (
        tokens
        == tokenizer.apply_chat_template(PROMPTS[1]["messages"], add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]
    )
    assert tokenizer.decode(tokens, skip_special_tokens=False) == text
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="prompt 2: `messages` need a model with a chat template"):
        read_prompts(path, tokenizer)


def test_a_stop_string_ends_a_completion(model, completed, tmp_path):
    """What comes before the string is the same as without it."""
    complete, tokenizer = records(completed), load_tokenizer(model)
    string = complete[0]["text"][2:4]
    assert run(model, tmp_path, "--stop", string, "never") == 0
    for line, free in zip(records(tmp_path), complete, strict=True):
        assert line["text"] == free["text"].split(string)[0]
        assert line["finish"] == ("stop" if string in free["text"] else "length")
        count = len(line["tokens"])
        assert line["tokens"] == free["tokens"][:count] and line["logp"] == free["logp"][:count]
        without = [string in tokenizer.decode(free["tokens"][:end]) for end in range(count)]
        assert not any(without) and (count == 6 or string in tokenizer.decode(line["tokens"]))


def test_a_terminal_shows_a_progress_bar(model, tmp_path):
    shown, settings = {}, {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "stop": (), "seed": 0, "rows": None, "memory": None}
    for terminal in (True, False):
        folder = tmp_path / str(terminal)
        folder.mkdir()
        file = io.StringIO()
        (folder / "prompts.jsonl").write_text(json.dumps(PROMPTS[0]) + "\n")
        spec = GenerationSpec(
            str(model), folder / "prompts.jsonl", folder / "out.jsonl", samples=3, temperature=1.0, max_new_tokens=2,
            dtype="float32", batch=64, devices=0, **settings,
        )  # fmt: skip
        list(complete_file(spec, Console(file=file, force_terminal=terminal, width=100)))
        shown[terminal] = file.getvalue()
    assert "completions" in shown[True] and "3/3" in shown[True] and shown[False] == ""


def test_compiled_programs_are_kept_by_default(model, copied):
    assert run(model, copied) == 0
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
    given = {}

    def make_sampler(*_, **settings):
        given.update(settings)
        raise ValueError("enough")

    monkeypatch.setattr(load, "make_sampler", make_sampler)
    monkeypatch.setattr(load.jax, "default_backend", lambda: backend)
    assert run(model, tmp_path, *more) == 2
    assert (given["rows"], given["memory"], given["longest"]) == (rows, memory, 6 + longest(model))


def test_full_memory_is_reported_with_advice(model, copied, monkeypatch, capsys):
    """Completions are kept, and fewer rows resume them; other errors of a device are raised."""
    path = copied / "out.jsonl"
    complete = path.read_bytes()
    half = b"".join(complete.splitlines(keepends=True)[:4])
    path.write_bytes(half)
    with monkeypatch.context() as patch:

        def full(*_):
            raise jax.errors.JaxRuntimeError(text)

        patch.setattr(load.Sampler, "sample", full)
        text = "RESOURCE_EXHAUSTED: Out of memory\nmuch more"
        assert run(model, copied) == 2
        message = capsys.readouterr().err
        assert "memory is full (RESOURCE_EXHAUSTED: Out of memory); run the same command with fewer --rows" in message
        text = "INTERNAL: something else"
        with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
            run(model, copied)
    assert path.read_bytes() == half
    path.write_bytes(complete)
    assert run(model, copied, "--rows=64", "--memory=0", "--batch=1") == 0  # they are not settings of the completions


def longest(model):
    tokenizer = load_tokenizer(model)
    chat = tokenizer.apply_chat_template(PROMPTS[1]["messages"], tokenize=False, add_generation_prompt=True)
    return max(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ("Who is what?", chat))

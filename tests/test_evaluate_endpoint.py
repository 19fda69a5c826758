"""The command with an address: problems, rule and verdicts as of a local model, and refusals before any request."""

import json
from pathlib import Path

import pytest

from jaxrl import evaluate
from jaxrl.evaluation.results import from_json

ROOT = Path(__file__).parents[1]
TINY = ROOT / "models" / "tiny"
ASKED = ("--form=terse", "--people=2", "--count=3", "--samples=1", "--max-new-tokens=120")


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """Small puzzles in few words, as the embedded model knows them, in float32; no key at hand."""
    task = evaluate.PLAIN["task"] | {"depth": 1, "wording": "plain"}
    monkeypatch.setattr(evaluate, "PLAIN", evaluate.PLAIN | {"task": task, "dtype": "float32", "compile_cache": ""})
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def completion(text, length, finish="stop"):
    usage = {"prompt_tokens": 40, "completion_tokens": length}
    return 200, {}, json.dumps({"choices": [{"message": {"content": text}, "finish_reason": finish}], "usage": usage})


def load(path):
    return from_json(path.read_text(encoding="utf-8"))


def test_a_server_that_answers_as_the_local_model_is_judged_as_it(serve, tmp_path, monkeypatch, capsys):
    items, local = {}, evaluate.evaluate_model

    def remembered(*arguments):
        result = local(*arguments)
        items.update((item.question, item) for item in result.items)
        return result

    def answer(body, number):
        item = items[body["messages"][-1]["content"].removesuffix(" Who is what?")]
        sample = (item.sampled if body["temperature"] else item.greedy)[0]
        return completion(sample.response, sample.length, "stop" if sample.finished else "length")

    monkeypatch.setattr(evaluate, "evaluate_model", remembered)
    server, asked = serve(answer), ["--name=tiny", *ASKED]
    address = f"--model={server.url}"
    assert evaluate.main([f"--model={TINY}", address, *asked, f"--output={tmp_path / 'two.json'}"]) == 0
    before, after = load(tmp_path / "two.before.json"), load(tmp_path / "two.after.json")
    assert before.items == after.items == tuple(items.values())
    assert len({sample.verdict for item in after.items for sample in (*item.greedy, *item.sampled)}) > 1
    assert (before.rule, after.settings["name"]) == (after.rule, "tiny")
    assert "cost: 240 tokens of prompts" in (tmp_path / "two.md").read_text(encoding="utf-8")
    assert "+0.0 [" in capsys.readouterr().out
    assert len(server.requests) == 6
    assert evaluate.main([address, *asked, f"--output={tmp_path / 'two.after.json'}"]) == 0
    assert len(server.requests) == 6 and "6 of 6 answers are in" in capsys.readouterr().out  # each is there already
    assert load(tmp_path / "two.after.json").items == after.items


def test_the_key_comes_from_the_environment_and_goes_nowhere(serve, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    server = serve(lambda body, number: completion("<think>x</think><answer>y</answer>", 5))
    assert (
        evaluate.main(
            [
                f"--model={server.url}",
                "--name=m",
                "--key-variable=MY_KEY",
                "--people=2",
                "--count=2",
                "--samples=0",
                f"--output={tmp_path / 'out.json'}",
            ]
        )
        == 0
    )
    headers, body = server.requests[0]
    assert headers["Authorization"] == "Bearer sk-secret"
    assert [message["role"] for message in body["messages"]] == ["system", "user"]  # the chat form, <think> left closed
    assert "<think> and </think>" in body["messages"][0]["content"]
    written = [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()]
    assert len(written) == 4 and not any("sk-secret" in text for text in [*written, capsys.readouterr().out])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--name=m", "--form=chat", "--opens-think", "--output=O"], "nobody can open <think>"),
        (["--name=m", "--form=base", "--output=O"], "ask with --form=chat"),
        (["--name=m"], "expected --output=FILE.json"),
        (["--output=O"], "expected a --name for each"),
        (["--name=m", "--output=O", "--model=/no/such"], "no folder /no/such"),
        (["--name=m", "--name=n", "--output=O", "--model=https://h/v1"], "OPENAI_API_KEY, found none"),
        (["--name=m", "--output=O", "--concurrency=0"], "concurrency of 1 or more"),
        (["--name=m", "--output=O", "--retries=-1"], "0 or more retries"),
        (["--name=m", "--output=O", "--key-variable=A", "--key-variable=B"], "one for each address"),
    ],
)
def test_refusals_come_before_any_request(serve, tmp_path, monkeypatch, capsys, more, said):
    monkeypatch.chdir(tmp_path)
    server = serve(lambda body, number: completion("x", 1))
    arguments = [f"--model={server.url}", "--people=2", "--count=2", *more]
    try:
        status = evaluate.main(arguments)
    except SystemExit as ended:  # what argparse itself refuses
        status = ended.code
    assert status == 2
    assert said in capsys.readouterr().err
    assert not server.requests and not list(tmp_path.iterdir())


def test_the_second_model_is_refused_before_the_first_is_evaluated(serve, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "evaluate_model", lambda *_: pytest.fail("computed before the refusal"))
    server = serve(lambda body, number: completion("x", 1))
    assert (
        evaluate.main(
            [
                f"--model={TINY}",
                f"--model={server.url}",
                "--name=m",
                "--form=terse",
                "--opens-think",
                f"--output={tmp_path / 'o.json'}",
            ]
        )
        == 2
    )
    assert "nobody can open <think>" in capsys.readouterr().err and not server.requests


def test_stop_strings_of_a_run_are_refused(serve, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "PLAIN", evaluate.PLAIN | {"stop": ["</answer>"]})
    server = serve(lambda body, number: completion("x", 1))
    assert evaluate.main([f"--model={server.url}", "--name=m", f"--output={tmp_path / 'o.json'}"]) == 2
    assert "'</answer>'" in capsys.readouterr().err

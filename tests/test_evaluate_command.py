"""The command asks what training asked, compares two models on the same problems, and writes both tables."""

import json
from pathlib import Path

import pytest

from jaxrl import evaluate
from jaxrl.evaluation.results import from_json

ROOT = Path(__file__).parents[1]
TERSE = ("--form=terse", "--people=2", "--count=2", "--samples=2", "--max-new-tokens=12")


@pytest.fixture
def plain(monkeypatch):
    """Small puzzles in few words, as the embedded model knows them, in float32."""
    task = evaluate.PLAIN["task"] | {"depth": 1, "wording": "plain"}
    monkeypatch.setattr(evaluate, "PLAIN", evaluate.PLAIN | {"task": task, "dtype": "float32", "compile_cache": ""})


def test_two_models_on_the_same_problems(plain, tmp_path, capsys):
    model = f"--model={ROOT / 'models' / 'tiny'}"
    assert evaluate.main([model, model, *TERSE, f"--output={tmp_path / 'tiny.json'}"]) == 0
    first, second = (
        from_json((tmp_path / f"tiny.{name}.json").read_text(encoding="utf-8")) for name in ("before", "after")
    )
    assert first.items == second.items  # one model, one seed: the same answers
    assert [item.kind for item in first.items] == ["p2", "p2"] and len(first.items[0].sampled) == 2
    table = (tmp_path / "tiny.md").read_text(encoding="utf-8")
    assert "| 2 people | greedy | 2 x 1 |" in table and "+0.0 [" in table
    assert table in capsys.readouterr().out
    assert (tmp_path / "tiny.html").stat().st_size > 1_000_000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model=/no/such"], "no folder /no/such"),
        (["--model=/no/such", "--data=/no/such.jsonl", "--count=1"], "no folder /no/such"),
        (["--model=/no/such", "--like=/no/run"], "a run folder"),
    ],
)
def test_what_is_not_there_is_said(arguments, said, capsys):
    assert evaluate.main(arguments) == 2
    assert said in capsys.readouterr().err


def test_settings_come_from_the_run_and_flags_go_before(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    usual = evaluate.PLAIN["evaluation"] | {"samples": 3, "temperature": 0.5}
    fields = evaluate.PLAIN | {"evaluation": usual, "seed": 9}
    (run / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    asked = evaluate._settings(evaluate._parse([f"--model={run}@7", "--temperature=0.7", "--people=2,4", "--count=5"]))
    assert (asked.samples, asked.temperature, asked.seed) == (3, 0.7, 9)
    assert asked.pool == (("p2", 5), ("p4", 5))


def run_folder(folder, **fields):
    """A run that has a checkpoint, as far as its config goes."""
    (folder / "checkpoints").mkdir(parents=True)
    config = evaluate.PLAIN | {"name": "one", "pool": {"p2": 30}, "init_from": ""}
    (folder / "config.json").write_text(json.dumps(config | fields), encoding="utf-8")
    return folder


def asked_of(*arguments):
    return evaluate._settings(evaluate._parse(arguments))


def test_a_run_is_not_asked_what_it_was_trained_on(tmp_path, capsys):
    run = run_folder(tmp_path / "run")
    evaluate.refuse_trained(f"{run}@3", asked_of(f"--model={run}@3", "--people=2", "--count=40"))
    # The other splits make training problems of this run's into held-out ones.
    other = run_folder(tmp_path / "other", task=evaluate.PLAIN["task"] | {"split_seed": 5})
    asked = asked_of(f"--model={run}", f"--like={other}", "--people=2", "--count=40")
    with pytest.raises(ValueError, match="evaluation problems equal training problems"):
        evaluate.refuse_trained(str(run), asked)
    # What a run went on from counts too.
    later = run_folder(tmp_path / "later", task=evaluate.PLAIN["task"] | {"split_seed": 5}, init_from=str(run))
    with pytest.raises(ValueError, match="evaluation problems equal training problems"):
        evaluate.refuse_trained(str(later), asked)
    assert capsys.readouterr().err == ""


def test_questions_of_a_file(tmp_path, capsys):
    lines = [{"question": f"What is {i} + 1?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"} for i in range(6)]
    paths = {name: tmp_path / f"{name}.jsonl" for name in ("train", "test")}
    for path, part in zip(paths.values(), (lines[:3], lines[3:]), strict=True):
        path.write_text("".join(json.dumps(line) + "\n" for line in part), encoding="utf-8")
    run = run_folder(tmp_path / "run", task={"name": "gsm8k", "files": {"sums": {name: str(path) for name, path in
                     paths.items()}}}, reward={"rule": "gsm8k-1"}, pool={"sums": 3},
                     evaluation={"pool": {"sums": 3}})  # fmt: skip
    asked = asked_of("--model=FOLDER", f"--data={paths['test']}", "--count=3")
    assert (asked.pool, asked.fields["reward"]["rule"]) == ((("test", 3),), "gsm8k-1")
    problems = evaluate._dialogue(asked).task.select("test", asked.pool, asked.seed)
    assert (problems[0].question, problems[0].solution) == ("What is 3 + 1?", "4")
    evaluate.refuse_trained(str(run), asked)
    with pytest.raises(ValueError, match="3 evaluation problems equal"):
        evaluate.refuse_trained(str(run), asked_of("--model=FOLDER", f"--data={paths['train']}", "--count=3"))
    paths["train"].unlink()
    evaluate.refuse_trained(str(run), asked)
    assert "not checked whether" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        evaluate._parse(["--model=FOLDER", "--data=x.jsonl", "--people=2"])

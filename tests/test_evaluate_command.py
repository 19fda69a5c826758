"""The command asks what training asked, compares two models on the same problems, and writes both tables."""

import json
from pathlib import Path

import pytest

from jaxrl import evaluate
from jaxrl.evaluation.table import from_json

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
    first, second = (from_json((tmp_path / f"tiny.{name}.json").read_text(encoding="utf-8"))
                     for name in ("before", "after"))
    assert first.items == second.items  # one model, one seed: the same answers
    assert [item.kind for item in first.items] == ["p2", "p2"] and len(first.items[0].sampled) == 2
    table = (tmp_path / "tiny.md").read_text(encoding="utf-8")
    assert "| 2 people | greedy | 2 x 1 |" in table and "+0.0 [" in table
    assert table in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "said"), [
    (["--model=/no/such"], "no folder /no/such"), (["--model=/no/such", "--like=/no/run"], "a run folder"),
])
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

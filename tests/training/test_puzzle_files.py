"""A run on puzzles of files, in both formats."""

import json

from data_gen.dataset import read_puzzles, write_puzzles
from data_gen.generate import generate
from data_gen.spec import PuzzleSpec
from jaxrl.reporting.rollouts import read_rollouts, rollout_path
from jaxrl.reporting.run_folder import read_run
from jaxrl.training.run_spec import run_spec


def test_a_run_trains_on_one_file_and_is_evaluated_on_another(small, tmp_path):
    puzzles = list(generate(PuzzleSpec(3, wording="plain"), 0, 14))
    write_puzzles(tmp_path / "train.jsonl", puzzles, "published")
    write_puzzles(tmp_path / "test.jsonl", puzzles[:6])
    fields = small.fields(tmp_path / "run")
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")}
    fields["task"] = {"name": "puzzle_files", "files": {"p3": files}}
    fields["stages"] = {"stage1": fields["stages"]["stage1"]}
    assert run_spec(fields).task.files == tuple(("p3", split, tmp_path / f"{split}.jsonl") for split in files)
    small.run(fields).train()
    run = read_run(tmp_path / "run")
    assert [record["step"] for record in run.records] == [0, 1, 2]
    result = json.loads((tmp_path / "run" / "evaluations" / "after.json").read_text(encoding="utf-8"))
    assert [item["question"] for item in result["items"]] == [puzzle.quiz for puzzle in puzzles[:6]]
    groups = [group for step in (1, 2) for group in read_rollouts(rollout_path(tmp_path / "run" / "rollouts", step))]
    trained = {group.question for group in groups}
    questions = [puzzle.quiz for puzzle in read_puzzles(tmp_path / "train.jsonl")]
    assert trained and trained <= set(questions[6:])  # the first six are held out

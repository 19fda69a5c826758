"""Where problems come from, who judges them, and which of them a step asks."""

import json
import sys
import types

import numpy as np
import pytest

from data_gen.prompts import PromptSpec, build_prompt
from jaxrl.rewards import RewardValues
from jaxrl.tasks.knights_and_knaves import PuzzleTask
from jaxrl.tasks.prompting import PromptFormat
from jaxrl.tasks.registry import make_task
from jaxrl.tasks.task import choose


@pytest.mark.parametrize(("pool", "prompts"), [(12, 4), (13, 4), (4, 4)])
def test_an_epoch_asks_no_problem_twice(pool, prompts):
    steps = pool // prompts
    for epoch in range(3):
        asked = np.concatenate([choose(pool, prompts, (0, 1), epoch * steps + place) for place in range(steps)])
        assert len(set(asked.tolist())) == len(asked) == steps * prompts


def test_orders_differ_by_epoch_and_seed_and_repeat_for_the_same():
    first = choose(50, 50, (0, 1), 0)
    assert (first == choose(50, 50, (0, 1), 0)).all()
    assert (first != choose(50, 50, (0, 1), 1)).any()
    assert (first != choose(50, 50, (0, 2), 0)).any()
    assert (first != choose(50, 50, (1, 1), 0)).any()


FILES = {"name": "gsm8k", "files": {"sums": {"train": "train.jsonl", "test": "test.jsonl"}}}
VALUES = RewardValues()


def lines(path, *pairs):
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in pairs), encoding="utf-8")


@pytest.fixture
def sums(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines(
        tmp_path / "train.jsonl",
        ("One and one?", "1 + 1\n#### 2"),
        ("One  and ONE?", "#### 2"),
        ("Ten more?", "#### 1,010"),
    )
    lines(tmp_path / "test.jsonl", ("Ten more?", "#### 1,010"))
    return make_task(FILES, "gsm8k-1")


def judged(task, problem, answer, rule):
    prompt_format = PromptFormat(task, PromptSpec("base"), rule, VALUES, None, ())
    response = f"<think>Let me add the numbers up one after another.</think><answer>{answer}</answer>"
    return prompt_format.judge(problem, response, False).verdict


def test_a_file_gives_each_question_once_and_none_that_is_held_out(sums):
    held_out = sums.select("test", [("sums", 1)], 0)
    drawn = sums.select("train", [("sums", 1)], 0, {problem.form for problem in held_out})
    assert [problem.question for problem in drawn] == ["One and one?"]
    with pytest.raises(ValueError, match="asked for 2 problems of 'sums', but there are only 1"):
        sums.select("train", [("sums", 2)], 0, {problem.form for problem in held_out})


def test_a_file_task_is_judged_by_its_number(sums):
    problem = sums.select("test", [("sums", 1)], 0)[0]
    assert judged(sums, problem, "It is 1010.", "gsm8k-1") == "correct"
    assert judged(sums, problem, "It is 1011.", "gsm8k-1") == "wrong_answer"
    assert "Ten more?" in build_prompt(*sums.prompt_parts(problem, "base"), PromptSpec("base"), None)


def test_an_id_tells_when_an_answer_was_changed(sums, tmp_path):
    """A manifest hashes ids: with other answers it would be another run."""
    (before,) = sums.select("test", [("sums", 1)], 0)
    lines(tmp_path / "test.jsonl", ("Ten more?", "#### 1,011"))
    (after,) = make_task(FILES, "gsm8k-1").select("test", [("sums", 1)], 0)
    assert before.question == after.question and before.id != after.id


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"question": "a"}', "texts `question` and `answer`"),
        ('{"question": "a", "answer": "none"}', "ends in a number"),
        ("[1]", "one JSON object"),
    ],
)
def test_a_bad_line_is_named(sums, text, said):
    with open("test.jsonl", "a", encoding="utf-8") as file:
        file.write(text + "\n")
    with pytest.raises(ValueError, match=rf"test.jsonl.* 2: .*{said}"):
        sums.select("test", [("sums", 5)], 0)


@pytest.mark.parametrize(
    ("fields", "rule", "said"),
    [
        ({"name": "chess"}, "strict-1", "task.name: expected one of knights_and_knaves"),
        ({"name": "gsm8k"}, "gsm8k-1", "expected the fields name, files"),
        (FILES, "strict-1", "gsm8k-1, exact-1"),
        ({"name": "gym", "splits": {"train": 1.0}, "split_seed": 0}, "verified-1", "task.splits"),
    ],
)
def test_a_wrong_task_is_refused_before_anything_is_read(fields, rule, said):
    with pytest.raises(ValueError, match=said):
        make_task(fields, rule)


def test_puzzles_know_their_kinds():
    operators = (("lies", 1.0), ("and", 1.0), ("or", 1.0), ("iff", 1.0))
    task = PuzzleTask(1, 2, "plain", operators, (("train", 1.0), ("test", 1.0)), 0)
    drawn = {split: task.select(split, [("p2", 1), ("p3", 20)], 5) for split in ("train", "test")}
    assert [problem.kind for problem in drawn["train"]] == ["p2"] * 1 + ["p3"] * 20
    assert not {p.form for p in drawn["train"]} & {p.form for p in drawn["test"]}
    with pytest.raises(ValueError, match="such as p3"):
        task.select("train", [("three", 2)], 0)


class Sums:
    """A dataset as reasoning-gym's look from outside: entries, and a program that scores an answer."""

    def __init__(self, seed, size):
        self.entries = [{"question": f"{a % 7} + {seed}?", "answer": str(a % 7 + seed)} for a in range(size)]

    def __iter__(self):
        return iter(self.entries)

    def score_answer(self, answer, entry):
        return 1.0 if int(answer) == int(entry["answer"]) else 0.01


@pytest.fixture
def gym(monkeypatch):
    module = types.ModuleType("reasoning_gym")
    module.factory = types.SimpleNamespace(DATASETS={"sums": None})
    module.create_dataset = lambda name, seed, size: Sums(seed, size)
    monkeypatch.setitem(sys.modules, "reasoning_gym", module)
    return make_task({"name": "gym", "splits": {"train": 0.5, "test": 0.5}, "split_seed": 0}, "verified-1")


def test_a_gym_problem_is_judged_by_the_datasets_own_program(gym):
    problem = gym.select("train", [("sums", 1)], 3)[0]
    assert judged(gym, problem, problem.solution, "verified-1") == "correct"
    assert judged(gym, problem, "99", "verified-1") == "wrong_answer"  # partial credit is not right
    assert judged(gym, problem, "seven", "verified-1") == "unparseable"  # its program raised


def test_a_gym_problem_is_the_same_whichever_of_its_right_answers_is_stored(gym, monkeypatch):
    """Some datasets store one of several, as Python's hashes fall: a run could not be started again."""
    first = gym.select("train", [("sums", 2)], 3)
    monkeypatch.setattr(Sums, "__iter__", lambda self: iter([entry | {"answer": "1"} for entry in self.entries]))
    again = gym.select("train", [("sums", 2)], 3)
    assert [problem.id for problem in first] == [problem.id for problem in again]
    assert [problem.solution for problem in first] != [problem.solution for problem in again]


def test_gym_splits_share_no_question(gym):
    drawn = {split: gym.select(split, [("sums", 2)], 3) for split in ("train", "test")}
    assert not {p.form for p in drawn["train"]} & {p.form for p in drawn["test"]}
    with pytest.raises(ValueError, match="there are sums"):
        gym.select("train", [("chess", 1)], 0)


def test_without_the_package_the_way_to_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    task = make_task({"name": "gym", "splits": {"train": 0.5, "test": 0.5}, "split_seed": 0}, "verified-1")
    with pytest.raises(ValueError, match=r"jaxrl\[gym\]"):
        task.select("train", [("sums", 1)], 0)

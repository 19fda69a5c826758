"""Tasks: selection of problems, judging, and the problems of each step."""

import importlib
import json
import sys
import types

import numpy as np
import pytest

from configs import base
from data_gen.prompts import PromptSpec, build_prompt
from jaxrl.command_line import plain
from jaxrl.rewards import RewardValues
from jaxrl.tasks.knights_and_knaves import PuzzleTask
from jaxrl.tasks.pools import epoch_indices, select_problems, stages_of
from jaxrl.tasks.problem import Problem
from jaxrl.tasks.prompting import PromptFormat
from jaxrl.tasks.registry import make_task


@pytest.mark.parametrize(("pool", "prompts"), [(12, 4), (13, 4), (4, 4)])
def test_an_epoch_uses_no_problem_twice(pool, prompts):
    steps = pool // prompts
    for epoch in range(3):
        used = np.concatenate([epoch_indices(pool, prompts, (0, 1), epoch * steps + step) for step in range(steps)])
        assert len(set(used.tolist())) == len(used) == steps * prompts


def test_permutations_are_a_function_of_epoch_and_seed():
    first = epoch_indices(50, 50, (0, 1), 0)
    assert (first == epoch_indices(50, 50, (0, 1), 0)).all()
    assert (first != epoch_indices(50, 50, (0, 1), 1)).any()
    assert (first != epoch_indices(50, 50, (0, 2), 0)).any()
    assert (first != epoch_indices(50, 50, (1, 1), 0)).any()


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


def test_a_file_task_selects_distinct_questions_that_are_not_held_out(sums):
    held_out = sums.select("test", [("sums", 1)], 0)
    selected = sums.select("train", [("sums", 1)], 0, {problem.form for problem in held_out})
    assert [problem.question for problem in selected] == ["One and one?"]
    with pytest.raises(ValueError, match="expected 2 different problems of 'sums', found only 1"):
        sums.select("train", [("sums", 2)], 0, {problem.form for problem in held_out})


def test_a_file_task_is_judged_by_the_number(sums):
    problem = sums.select("test", [("sums", 1)], 0)[0]
    assert judged(sums, problem, "It is 1010.", "gsm8k-1") == "correct"
    assert judged(sums, problem, "It is 1011.", "gsm8k-1") == "wrong_answer"
    assert "Ten more?" in build_prompt(*sums.prompt_parts(problem, "base"), PromptSpec("base"), None)


def test_the_id_depends_on_the_answer(sums, tmp_path):
    """The manifest hashes ids, so it detects changed answers."""
    (before,) = sums.select("test", [("sums", 1)], 0)
    lines(tmp_path / "test.jsonl", ("Ten more?", "#### 1,011"))
    (after,) = make_task(FILES, "gsm8k-1").select("test", [("sums", 1)], 0)
    assert before.question == after.question and before.id != after.id


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"question": "a"}', "strings `question` and `answer`"),
        ('{"question": "a", "answer": "none"}', "the rule gsm8k-1 can judge by, got 'none'"),
        ("[1]", "one JSON object"),
    ],
)
def test_the_error_for_a_bad_line_has_its_number(sums, text, error):
    with open("test.jsonl", "a", encoding="utf-8") as file:
        file.write(text + "\n")
    with pytest.raises(ValueError, match=rf"test.jsonl.* 2: .*{error}"):
        sums.select("test", [("sums", 5)], 0)


@pytest.mark.parametrize(
    ("answer", "target"),
    [("#### 1,00,000", "100000"), ("#### １８", "18"), ("#### −5", "-5"), ("3/4 of it\n#### 3/4", "0.75")],
)
def test_an_answer_that_is_accepted_is_judged_in_the_same_way(sums, tmp_path, answer, target):
    lines(tmp_path / "test.jsonl", ("How many logins in four days?", answer))
    task = make_task(FILES, "gsm8k-2")
    (problem,) = task.select("test", [("sums", 1)], 0)
    thinking = "<think>Ann uses 3 logins on each of four days. That is 3 * 4 = 12 in all.</think>"
    for text, verdict in ((target, "correct"), (f"{target}1", "wrong_answer")):
        prompt_format = PromptFormat(task, PromptSpec("base"), "gsm8k-2", VALUES, None, ())
        assert prompt_format.judge(problem, f"{thinking}<answer>{text}</answer>", False).verdict == verdict


@pytest.mark.parametrize(
    "answer", ["#### 10,20", "#### 5 or 6", "#### 3:45", "#### eighteen", "#### 1.234.567", "####"]
)
def test_an_answer_that_cannot_be_judged_is_refused_by_file_and_line(sums, tmp_path, answer):
    lines(tmp_path / "test.jsonl", ("One?", "#### 1"), ("Two?", answer))
    with pytest.raises(ValueError, match=r"test.jsonl, line 2: expected an answer that the rule gsm8k-2 can judge by"):
        make_task(FILES, "gsm8k-2").select("test", [("sums", 2)], 0)
    # Every rule of a run must be able to judge.
    with pytest.raises(ValueError, match=r"line 2: .* the rule (gsm8k-2|exact-1) can judge by"):
        make_task(FILES, "exact-1").judged_by("exact-1", "gsm8k-2").select("test", [("sums", 2)], 0)


def test_answers_are_numbers_expressions_or_texts_by_rule(sums, tmp_path):
    lines(tmp_path / "test.jsonl", ("Root?", r"\sqrt{2}"), ("Range?", r"so \boxed{(-\infty, 3]}"), ("Day?", "Monday"))
    for rule in ("math-1", "exact-1"):
        task = make_task(FILES, rule)
        problems = task.select("test", [("sums", 3)], 0)
        assert "the result alone" in task.prompt_parts(problems[0], "base")[1]
        assert [problem.solution for problem in problems][::2] == [r"\sqrt{2}", "Monday"]
    with pytest.raises(ValueError, match=r"line 1: .* gsm8k-2"):
        make_task(FILES, "gsm8k-2").select("test", [("sums", 3)], 0)
    assert "the number that is asked for" in make_task(FILES, "gsm8k-2").prompt_parts(problems[0], "base")[1]


@pytest.mark.parametrize(
    ("fields", "rule", "error"),
    [
        ({"name": "chess"}, "strict-1", "task.name: expected one of knights_and_knaves"),
        ({"name": "gsm8k"}, "gsm8k-1", "expected the fields name, files"),
        (FILES, "strict-1", "exact-1.*gsm8k-1"),
        ({"name": "gym", "splits": {"train": 1.0}, "split_seed": 0}, "verified-1", "task.splits"),
    ],
)
def test_a_wrong_task_raises_before_data_is_read(fields, rule, error):
    with pytest.raises(ValueError, match=error):
        make_task(fields, rule)


def plain_puzzles(operators):
    return PuzzleTask(1, 2, operators, "plain", (("train", 1.0), ("test", 1.0)), 0)


def test_the_config_of_an_older_run_selects_the_same_puzzles():
    fields = json.loads(json.dumps(base.small(base.get_run()).task.to_dict()))  # as it is stored
    newer = {"hardness", "names", "first_person"}
    assert newer < set(fields)
    older = {name: value for name, value in fields.items() if name not in newer}
    selected = make_task(older, "strict-1").select("test", [("p3", 5)], 0)
    assert selected == make_task(fields, "strict-1").select("test", [("p3", 5)], 0)
    for wrong in (older | {"nesting": 1}, {name: value for name, value in older.items() if name != "depth"}):
        with pytest.raises(ValueError, match=r"task: expected the fields name, depth, .* got name, "):
            make_task(wrong, "strict-1")


def test_kinds_of_puzzles():
    operators = (("lies", 1.0), ("and", 1.0), ("or", 1.0), ("iff", 1.0))
    task = plain_puzzles(operators)
    selected = {split: task.select(split, [("p2", 1), ("p3", 20)], 5) for split in ("train", "test")}
    assert [problem.kind for problem in selected["train"]] == ["p2"] * 1 + ["p3"] * 20
    assert not {p.form for p in selected["train"]} & {p.form for p in selected["test"]}
    with pytest.raises(ValueError, match="such as p3"):
        task.select("train", [("three", 2)], 0)
    for count in (14, 400):
        with pytest.raises(ValueError, match=r'p2 of the split "test": .* found only [1-9] .* request at most [1-9],'):
            task.select("test", [("p2", count)], 0)


class Sums:
    """A dataset with the interface of reasoning-gym: entries and a verifier."""

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


def test_a_gym_problem_is_judged_by_the_verifier_of_its_dataset(gym):
    problem = gym.select("train", [("sums", 1)], 3)[0]
    assert judged(gym, problem, problem.solution, "verified-1") == "correct"
    assert judged(gym, problem, "99", "verified-1") == "wrong_answer"  # partial credit does not count
    assert judged(gym, problem, "seven", "verified-1") == "unparseable"  # the verifier raises


def test_a_gym_problem_does_not_depend_on_the_stored_answer(gym, monkeypatch):
    """Some datasets store one of several correct answers, by Python's hash seed; a run must still resume."""
    first = gym.select("train", [("sums", 2)], 3)
    monkeypatch.setattr(Sums, "__iter__", lambda self: iter([entry | {"answer": "1"} for entry in self.entries]))
    again = gym.select("train", [("sums", 2)], 3)
    assert [problem.id for problem in first] == [problem.id for problem in again]
    assert [problem.solution for problem in first] != [problem.solution for problem in again]


def test_gym_splits_share_no_question(gym):
    selected = {split: gym.select(split, [("sums", 2)], 3) for split in ("train", "test")}
    assert not {p.form for p in selected["train"]} & {p.form for p in selected["test"]}
    with pytest.raises(ValueError, match="out of sums"):
        gym.select("train", [("chess", 1)], 0)


def test_the_error_for_a_missing_package_has_the_command_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    task = make_task({"name": "gym", "splits": {"train": 0.5, "test": 0.5}, "split_seed": 0}, "verified-1")
    with pytest.raises(ValueError, match=r"jaxrl\[gym\]"):
        task.select("train", [("sums", 1)], 0)


def test_training_problems_exclude_the_held_out_ones(sums):
    held_out, pools = select_problems(sums, [("sums", 1)], {"first": [("sums", 1)], "second": [("sums", 1)]}, seed=0)
    assert [problem.question for problem in held_out] == ["Ten more?"]
    assert [[problem.question for problem in pool] for pool in pools.values()] == [["One and one?"]] * 2
    with pytest.raises(ValueError, match="found only 1"):
        select_problems(sums, [("sums", 1)], {"first": [("sums", 2)]}, seed=0)


def test_a_task_that_ignores_the_exclusion_raises(sums, monkeypatch):
    monkeypatch.setattr(type(sums), "select", lambda self, *args: [Problem("a", "sums", "?", "1", "?", False, (), "1")])
    with pytest.raises(ValueError, match="1 evaluation problems equal training problems"):
        select_problems(sums, [("sums", 1)], {"first": [("sums", 1)]}, seed=0)


def test_a_config_without_stages_is_its_own_stage():
    config = {"name": "stage1", "pool": {"p3": 5}}
    assert stages_of(config) == {"stage1": config}
    assert stages_of({"name": "all", "stages": {"stage1": config}}) == {"stage1": config}


def test_only_terse_responses_to_puzzles_have_a_style(sums):
    task = plain_puzzles((("lies", 1.0), ("and", 1.0)))
    styles = [
        PromptFormat(task, PromptSpec(form), "strict-1", VALUES, None, ()).classify("That will do.")
        for form in ("terse", "base")
    ]
    assert styles == ["unchecked", ""]
    assert PromptFormat(sums, PromptSpec("terse"), "gsm8k-1", VALUES, None, ()).classify("That will do.") == ""


def embedded_puzzles():
    """The task of the embedded model."""
    return make_task(plain(importlib.import_module("configs.stage1").get_config("tiny"))["task"], "strict-1")


def test_soundness_is_never_rewarded():
    """A wrong step in the reasoning changes what is reported, not the verdict or the reward."""
    task = embedded_puzzles()
    prompt_format = PromptFormat(task, PromptSpec("terse"), "strict-1", VALUES, None, ())
    (problem,) = task.select("test", [("p3", 1)], seed=0)
    right = task.demonstration(problem)
    wrong = right.replace(" ok.", " bad.", 1)
    verdicts = [prompt_format.judge(problem, text, truncated=False) for text in (right, wrong)]
    assert verdicts[0] == verdicts[1] and verdicts[0].verdict == "correct"
    assert [prompt_format.check_reasoning(problem, text).sound for text in (right, wrong)] == [True, False]


def test_only_the_reasoning_of_terse_responses_to_puzzles_is_verified(sums):
    task = embedded_puzzles()
    (problem,) = task.select("test", [("p3", 1)], seed=0)
    found = {
        form: PromptFormat(task, PromptSpec(form), "strict-1", VALUES, None, ()).check_reasoning(
            problem, task.demonstration(problem)
        )
        for form in ("terse", "base")
    }
    assert found == {"terse": (True, "", (0, 0)), "base": None}
    (sum_problem,) = sums.select("train", [("sums", 1)], seed=0)
    assert (
        PromptFormat(sums, PromptSpec("terse"), "gsm8k-1", VALUES, None, ()).check_reasoning(sum_problem, "3") is None
    )

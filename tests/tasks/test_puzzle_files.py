"""Tasks with puzzle files: selection, splits, prompts, judging and perturbed problems."""

import json

import pytest

from data_gen.canonical import canonical
from data_gen.dataset import write_puzzles
from data_gen.generate import generate
from data_gen.perturb import KINDS
from data_gen.prompts import PromptSpec
from data_gen.puzzle import to_record
from data_gen.spec import PuzzleSpec
from jaxrl.command_line import default_fields
from jaxrl.rewards import RULES, RewardValues
from jaxrl.tasks.pools import select_problems
from jaxrl.tasks.prompting import PromptFormat
from jaxrl.tasks.puzzle_files import count_kinds
from jaxrl.tasks.puzzle_problems import perturbed_problems
from jaxrl.tasks.registry import make_task

RULES_FOR_PEOPLE = [name for name, rule in RULES.items() if rule.needs == "people"]
SPLITS = {"train": 0.5, "test": 0.5}


@pytest.fixture
def files(tmp_path):
    """Three and four people, 30 puzzles each. The training file, in the published format, has all test puzzles too."""
    puzzles = [puzzle for people in (3, 4) for puzzle in generate(PuzzleSpec(people), 0, 30)]
    write_puzzles(tmp_path / "train.parquet", puzzles, "published")
    write_puzzles(tmp_path / "test.jsonl", puzzles[:10] + puzzles[-10:])
    return {"train": str(tmp_path / "train.parquet"), "test": str(tmp_path / "test.jsonl")}


def file_task(files, *kinds, rule="strict-1"):
    return make_task({"name": "puzzle_files", "files": dict.fromkeys(kinds, files)}, rule)


def test_kinds_select_by_people_and_training_excludes_held_out_puzzles(files):
    task = file_task(files, "p3", "p4", "all")
    held_out, pools = select_problems(task, [("p3", 10)], {"one": [("p3", 20), ("p4", 5)], "two": [("all", 50)]}, 0)
    assert {len(problem.names) for problem in held_out} == {3}
    assert [len(problem.names) for problem in pools["one"]] == [3] * 20 + [4] * 5
    forms = {problem.form for problem in held_out}
    assert len(forms) == 10 and not forms & {problem.form for pool in pools.values() for problem in pool}
    with pytest.raises(ValueError, match="expected 21 different problems of 'p3', found only 20"):
        select_problems(task, [("p3", 10)], {"one": [("p3", 21)]}, 0)
    assert count_kinds(files["test"] and task.files[1][2]) == {"p3": 10, "p4": 10}


def test_forms_equal_those_of_generated_puzzles(files):
    """So that a run on generated puzzles is not evaluated on a file with the same ones."""
    (problem, *_) = file_task(files, "p3").select("train", [("p3", 5)], 0)
    assert problem.form == canonical(next(generate(PuzzleSpec(3), 0, 1)).statements)


@pytest.mark.parametrize("rule", RULES_FOR_PEOPLE)
@pytest.mark.parametrize("split", ["train", "test"])
def test_solution_texts_are_judged_correct_and_the_prompt_has_one_setting(files, split, rule):
    task = file_task(files, "all", rule=rule)
    prompt_format = PromptFormat(task, PromptSpec("chat"), rule, RewardValues(), None, ())
    for problem in task.select(split, [("all", 20)], 0):
        first, second = problem.names[:2]
        thinking = f"Suppose {first} lies. Then what {second} claims is false too, and so {first} tells the truth."
        response = f"<think>{thinking}</think><answer>{problem.content.solution_text}</answer>"
        assert prompt_format.judge(problem, response, False).verdict == "correct"
        opposite = problem.content._replace(solution=tuple(not honest for honest in problem.content.solution))
        response = f"<think>{thinking}</think><answer>{opposite.solution_text}</answer>"
        assert prompt_format.judge(problem, response, False).verdict == "wrong_answer"
        assert task.prompt_parts(problem, "chat")[0].count("On an island") == 1


@pytest.mark.parametrize(
    ("files", "rule", "error"),
    [
        ({"p3": {"test": "none.jsonl"}}, "strict-1", "expected a file of puzzles at none.jsonl"),
        ({"p3": {"train": "none.jsonl"}}, "strict-1", "a kind with a test file in task.files, got 'p3'"),
        ({"p3": {"test": "none.jsonl"}}, "exact-1", "can judge the task 'puzzle_files'"),
    ],
)
def test_wrong_files_and_rules_are_refused(files, rule, error):
    with pytest.raises((ValueError, OSError), match=error):
        make_task({"name": "puzzle_files", "files": files}, rule).select("test", [("p3", 1)], 0)


def test_a_wrong_puzzle_is_refused_with_file_and_line(tmp_path):
    records = [to_record(puzzle) for puzzle in generate(PuzzleSpec(3), 0, 3)]
    records[2]["people"] = [[name, "knight"] for name, _ in records[2]["people"]]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 3: "):
        file_task({"test": str(path)}, "p3").select("test", [("p3", 3)], 0)


def generated_task(**changes):
    return make_task(default_fields()["task"] | {"splits": SPLITS} | changes, "strict-1")


def test_perturbed_problems_are_never_training_problems(files):
    for task, kind in ((generated_task(), "p2"), (file_task(files, "p3"), "p3")):
        problems = task.select("test", [(kind, 10)], 0)
        perturbed = perturbed_problems(task, problems, KINDS, 0)
        assert {twin.perturbation for twin in perturbed} == set(KINDS)
        for twin in perturbed:
            original = problems[twin.original]
            assert twin.problem.kind == kind and twin.problem.id != original.id
            if twin.perturbation in ("statement", "leaf"):
                assert twin.problem.form != original.form and twin.problem.solution != original.solution
                assert task.held_out_filter()(twin.problem.form)
            else:
                assert twin.problem.form == original.form
        avoid = {twin.problem.form for twin in perturbed if twin.perturbation == "statement"}
        other = perturbed_problems(task, problems, ["statement"], 0, avoid)
        assert not avoid & {twin.problem.form for twin in other}


def test_perturbed_problems_are_written_like_the_task():
    task = generated_task(wording="varied", first_person=True)
    problems = task.select("test", [("p5", 20)], 0)
    texts = [twin.problem.question for twin in perturbed_problems(task, problems, ["flip-roles"], 0)]
    assert sum(" I " in text for text in texts) == sum(" I " in problem.question for problem in problems) > 0


def test_perturbations_need_puzzles(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "1 + 1?", "answer": "#### 2"}\n', encoding="utf-8")
    sums = make_task({"name": "gsm8k", "files": {"a": {"test": str(tmp_path / "a.jsonl")}}}, "gsm8k-1")
    with pytest.raises(ValueError, match="expected knights-and-knaves puzzles to perturb"):
        perturbed_problems(sums, sums.select("test", [("a", 1)], 0), ["leaf"], 0)
    assert perturbed_problems(sums, sums.select("test", [("a", 1)], 0), [], 0) == []
    task = generated_task()
    with pytest.raises(ValueError, match="each perturbation once"):
        perturbed_problems(task, task.select("test", [("p3", 1)], 0), ["colour"], 0)
    plain = generated_task(wording="plain")
    with pytest.raises(ValueError, match=r"'names' fits none .* only 5 are left"):
        perturbed_problems(plain, plain.select("test", [("p7", 2)], 0), ["names"], 0)


@pytest.mark.parametrize(
    ("changes", "published"),
    [
        ({}, True),
        ({"wording": "plain"}, False),
        ({"wording": "varied"}, False),
        ({"depth": 2}, False),
        ({"first_person": True}, False),
        ({"names": "world"}, False),
        ({"hardness": (6, 10)}, False),
        ({"operators": default_fields()["task"]["operators"] | {"or": 2.0}}, False),
    ],
)
def test_published_accuracies_are_for_the_default_puzzles_only(changes, published):
    (problem,) = generated_task(**changes).select("test", [("p3", 1)], 0)
    assert problem.published == published


def test_published_accuracies_are_for_files_with_such_puzzles(tmp_path):
    classic = list(generate(PuzzleSpec(3), 0, 20))
    statement = classic[0].statements
    opening = "A very special island is inhabited only by knights and knaves. "
    theirs = classic[0]._replace(quiz=opening + classic[0].quiz, standalone=True)
    cases = [
        ([*classic, theirs], "puzzles", True),
        (list(generate(PuzzleSpec(3, wording="varied"), 0, 20)), "puzzles", False),
        (list(generate(PuzzleSpec(3, depth=3), 0, 20)), "puzzles", False),
    ]
    assert theirs.statements == statement
    for puzzles, form, published in cases:
        write_puzzles(tmp_path / "a.jsonl", puzzles, form)
        problems = file_task({"test": str(tmp_path / "a.jsonl")}, "p3").select("test", [("p3", 20)], 0)
        assert all(problem.published for problem in problems) == published

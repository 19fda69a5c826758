"""`jaxrl.evaluate` uses the settings of training, compares two models on the same problems, and evaluates servers."""

import json
import re
from pathlib import Path

import pytest

from data_gen.dataset import write_puzzles
from data_gen.generate import generate
from data_gen.spec import PuzzleSpec
from jaxrl import evaluate
from jaxrl.command_line import default_fields
from jaxrl.evaluation.results import from_json
from jaxrl.inference import evaluate as evaluation
from jaxrl.inference.evaluate import refuse_trained
from jaxrl.inference.training_problems import training_problems
from jaxrl.reporting.page_tables import evaluation_table
from jaxrl.rewards import RULES

TINY = Path(__file__).parents[1] / "models" / "tiny"
TERSE = ("--form=terse", "--people=2", "--count=2", "--samples=2", "--max-new-tokens=12")


@pytest.fixture
def small_defaults(monkeypatch):
    """Short puzzles for the embedded model, in float32; no key in the environment."""
    fields = default_fields()
    fields |= {"task": fields["task"] | {"depth": 1, "wording": "plain"}, "dtype": "float32", "compile_cache": ""}
    monkeypatch.setattr(evaluate, "default_fields", lambda: fields)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return fields


def request_of(*arguments):
    given = evaluate.make_parser().parse_args(arguments)
    evaluate.check_flags(given)
    return evaluate.evaluation_request(given, default_fields())


def test_two_models_on_the_same_problems(small_defaults, tmp_path, capsys):
    model = f"--model={TINY}"
    assert evaluate.main([model, model, *TERSE, f"--output={tmp_path / 'tiny.json'}"]) == 0
    first, second = (
        from_json((tmp_path / f"tiny.{name}.json").read_text(encoding="utf-8")) for name in ("before", "after")
    )
    assert first.items == second.items  # same model and seed, so the same responses
    assert [item.kind for item in first.items] == ["p2", "p2"] and len(first.items[0].sampled) == 2
    table = (tmp_path / "tiny.md").read_text(encoding="utf-8")
    assert "| 2 people | greedy | 2 x 1 |" in table and "+0.0 [" in table
    assert table in capsys.readouterr().out
    assert (tmp_path / "tiny.html").stat().st_size > 1_000_000


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model=/no/such"], "no folder /no/such"),
        (["--model=/no/such", "--data=/no/such.jsonl", "--count=1"], "no folder /no/such"),
        (["--model=/no/such", "--like=/no/run"], "a run folder"),
        (["--model=FOLDER", "--data=x.jsonl", "--people=2"], "--people or --data, got both"),
        (["--model=FOLDER", "--perturb=leaf,colour"], "--perturb as kinds out of statement, leaf"),
        (["--model=FOLDER", "--perturb=leaf,leaf"], "--perturb as kinds out of statement, leaf"),
        (["--model=A", "--model=B", "--model=C"], "one or two --model, got 3"),
    ],
)
def test_wrong_flags_and_missing_files_are_refused(small_defaults, arguments, sentence, capsys):
    assert evaluate.main(arguments) == 2
    assert sentence in capsys.readouterr().err


def test_without_a_run_settings_are_those_of_configs_base():
    request, fields = request_of("--model=FOLDER"), default_fields()
    for name in ("task", "prompt", "stop", "dtype"):
        assert request.fields[name] == fields[name]
    assert request.fields["reward"]["rule"] == "strict-2" and request.seed == 0 and request.greedy
    assert (request.pool, request.samples, request.max_new_tokens) == ((("p3", 100), ("p5", 100)), 8, 2048)
    assert request.fields["sampler"] == {"rows": None, "devices": -1, "memory": None}  # chosen for the device
    assert request_of("--model=FOLDER", "--people=4").pool == (("p4", 100),)
    assert request_of("--model=FOLDER", "--count=7").pool == (("p3", 7), ("p5", 7))


def run_folder(folder, **fields):
    """A run with a checkpoint, as far as its config goes."""
    (folder / "checkpoints").mkdir(parents=True)
    config = default_fields() | {"name": "one", "pool": {"p2": 30}, "init_from": ""}
    (folder / "config.json").write_text(json.dumps(config | fields), encoding="utf-8")
    return folder


def test_flags_override_the_run_which_overrides_the_defaults(tmp_path):
    usual = default_fields()["evaluation"] | {"samples": 3, "temperature": 0.5}
    run = run_folder(tmp_path / "run", evaluation=usual, seed=9)
    request = request_of(f"--model={run}@7", "--temperature=0.7", "--people=2,4", "--count=5")
    assert (request.samples, request.temperature, request.seed) == (3, 0.7, 9)
    assert request.pool == (("p2", 5), ("p4", 5))
    assert request.fields["sampler"] == default_fields()["sampler"]


def test_a_run_is_not_evaluated_on_its_training_problems(tmp_path):
    run = run_folder(tmp_path / "run")
    assert refuse_trained(f"{run}@3", request_of(f"--model={run}@3", "--people=2", "--count=20"))[0] == ""
    # With another split seed, training problems of this run are held out.
    task = default_fields()["task"] | {"split_seed": 5}
    other = run_folder(tmp_path / "other", task=task)
    request = request_of(f"--model={run}", f"--like={other}", "--people=2", "--count=20")
    with pytest.raises(ValueError, match="evaluation problems equal training problems"):
        refuse_trained(str(run), request)
    # Problems of the run that it started from count too.
    later = run_folder(tmp_path / "later", task=task, init_from=str(run))
    with pytest.raises(ValueError, match="evaluation problems equal training problems"):
        refuse_trained(str(later), request)


def test_questions_of_a_file(tmp_path):
    lines = [{"question": f"What is {i} + 1?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"} for i in range(6)]
    paths = {name: tmp_path / f"{name}.jsonl" for name in ("train", "test")}
    for path, part in zip(paths.values(), (lines[:3], lines[3:]), strict=True):
        path.write_text("".join(json.dumps(line) + "\n" for line in part), encoding="utf-8")
    run = run_folder(tmp_path / "run", task={"name": "gsm8k", "files": {"sums": {name: str(path) for name, path in
                     paths.items()}}}, reward={"rule": "gsm8k-1"}, pool={"sums": 3},
                     evaluation={"pool": {"sums": 3}})  # fmt: skip
    request = request_of("--model=FOLDER", f"--data={paths['test']}", "--count=3")
    assert (request.pool, request.fields["reward"]["rule"]) == ((("test", 3),), "gsm8k-2")
    problems = request.problems()
    assert (problems[0].question, problems[0].solution) == ("What is 3 + 1?", "4")
    assert refuse_trained(str(run), request) == ("", {f"what is {i} + 1?" for i in range(3)})
    with pytest.raises(ValueError, match="3 evaluation problems equal"):
        refuse_trained(str(run), request_of("--model=FOLDER", f"--data={paths['train']}", "--count=3"))
    paths["train"].unlink()
    assert "could not check whether" in refuse_trained(str(run), request)[0]


@pytest.fixture
def puzzle_file(tmp_path):
    """Three people (5) and four people (8), of the split seed that puts all of them into the training of no run."""
    puzzles = [*generate(PuzzleSpec(3), 99, 5), *generate(PuzzleSpec(4), 99, 8)]
    write_puzzles(tmp_path / "puzzles.jsonl", puzzles)
    write_puzzles(tmp_path / "published.parquet", puzzles, "published")
    return tmp_path / "puzzles.jsonl"


def test_puzzles_of_a_file(puzzle_file):
    for path in (puzzle_file, puzzle_file.with_name("published.parquet")):
        data = f"--data={path}"
        assert request_of("--model=FOLDER", data).pool == (("p3", 5), ("p4", 8))  # fewer than 100
        assert request_of("--model=FOLDER", data, "--people=4").pool == (("p4", 8),)
        request = request_of("--model=FOLDER", data, "--people=3", "--count=4")
        assert request.pool == (("p3", 4),) and RULES[request.fields["reward"]["rule"]].needs == "people"
        assert [len(problem.names) for problem in request.problems()] == [3] * 4
        with pytest.raises(ValueError, match="expected 6 different problems of 'p3', found only 5"):
            request_of("--model=FOLDER", data, "--people=3", "--count=6").problems()
        with pytest.raises(ValueError, match="expected puzzles of 5 people, got 3 people, 4 people"):
            request_of("--model=FOLDER", data, "--people=5")


def test_a_run_is_not_evaluated_on_a_file_of_its_training_puzzles(tmp_path):
    run = run_folder(tmp_path / "run")
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    trained = list(training_problems(config))
    write_puzzles(tmp_path / "a.jsonl", [problem.content for problem in trained[:2]], "published")
    request = request_of("--model=FOLDER", f"--data={tmp_path / 'a.jsonl'}")
    with pytest.raises(ValueError, match="2 evaluation problems equal"):
        refuse_trained(str(run), request)


def test_flags_change_the_kind_of_generated_puzzles(puzzle_file):
    request = request_of("--model=FOLDER", "--people=3", "--count=9", "--wording=varied", "--names=world",
                         "--depth=2", "--operators=lies=1,iff=2", "--hardness=4:8", "--first-person")  # fmt: skip
    problems = request.problems()
    assert all(4 <= problem.content.hardness <= 8 for problem in problems)
    operators = {name for problem in problems for name in re.findall("[a-z-]+", str(problem.content.statements))}
    assert operators == {"lies", "iff"} and not all(problem.question.isascii() for problem in problems)
    assert not any(problem.published for problem in problems)
    assert all(problem.published for problem in request_of("--model=FOLDER", "--people=3", "--count=9").problems())
    with pytest.raises(
        ValueError, match=r"expected --wording only with generated puzzles, got the file .*puzzles\.jsonl"
    ):
        request_of("--model=FOLDER", f"--data={puzzle_file}", "--wording=plain")
    with pytest.raises(ValueError, match="expected --operators as NAME=NUMBER"):
        request_of("--model=FOLDER", "--operators=lies")


def test_perturbed_problems_are_evaluated_beside_the_originals(small_defaults, tmp_path, capsys):
    path = tmp_path / "tiny.json"
    flags = [f"--model={TINY}", *TERSE, f"--output={path}"]
    assert evaluate.main(flags) == 0
    alone = load(path)
    assert evaluate.main([*flags, "--perturb=names,flip-roles"]) == 0
    result = load(path)
    assert result.items == alone.items  # responses do not depend on --perturb
    twins = [(twin.perturbation, twin.original) for twin in result.twins]
    assert twins == [(kind, item.problem) for kind in ("names", "flip-roles") for item in result.items]
    assert all(len(twin.item.greedy) == 1 and len(twin.item.sampled) == 2 for twin in result.twins)
    table = path.with_suffix(".md").read_text(encoding="utf-8")
    assert "| 2 people | flip-roles | sampled | 2 |" in table and table in capsys.readouterr().out
    assert [line[1] for line in evaluation_table(result)["perturbed"]["lines"]] == [
        *["names"] * 2,
        *["flip-roles"] * 2,
    ]
    assert "GPT-4o" not in table  # these puzzles are not like the published ones


def test_perturbed_problems_of_a_server(small_defaults, serve, tmp_path, puzzle_file):
    server = serve(lambda body, number: completion("<think>x</think><answer>y</answer>", 5))
    flags = ["--name=m", f"--data={puzzle_file.with_name('published.parquet')}", "--people=3", "--count=2"]
    flags += ["--samples=0", "--perturb=statement,order", f"--output={tmp_path / 'out.json'}"]
    assert evaluate.main([f"--model={server.url}", *flags]) == 0
    result = load(tmp_path / "out.json")
    assert (len(result.items), len(result.twins), len(server.requests)) == (2, 4, 6)
    originals = {item.problem: item.question for item in result.items}
    for twin in result.twins:
        first, second = (text.split(". ") for text in (originals[twin.original], twin.item.question))
        assert first[0] == second[0] and first != second


def test_perturbations_of_other_tasks_are_refused(small_defaults, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"question": "1 + 1?", "answer": "#### 2"}\n', encoding="utf-8")
    flags = [f"--data={tmp_path / 'a.jsonl'}", "--count=1", "--form=terse", "--perturb=leaf"]
    assert evaluate.main([f"--model={TINY}", *flags]) == 2
    assert "expected knights-and-knaves puzzles to perturb" in capsys.readouterr().err


SHORT = ("--form=terse", "--people=2", "--count=3", "--samples=1", "--max-new-tokens=120")


def completion(text, length, finish="stop"):
    usage = {"prompt_tokens": 40, "completion_tokens": length}
    return 200, {}, json.dumps({"choices": [{"message": {"content": text}, "finish_reason": finish}], "usage": usage})


def load(path):
    return from_json(path.read_text(encoding="utf-8"))


def test_a_server_that_responds_as_the_local_model_gets_its_verdicts(
    small_defaults, serve, tmp_path, monkeypatch, capsys
):
    items, local = {}, evaluation.evaluate_model

    def remembered(*arguments):
        result = local(*arguments)
        items.update((item.question, item) for item in result.items)
        return result

    def respond(body, number):
        item = items[body["messages"][-1]["content"].removesuffix(" Who is what?")]
        sample = (item.sampled if body["temperature"] else item.greedy)[0]
        return completion(sample.response, sample.length, "stop" if sample.finished else "length")

    monkeypatch.setattr(evaluation, "evaluate_model", remembered)
    server, flags = serve(respond), ["--name=tiny", *SHORT]
    url = f"--model={server.url}"
    assert evaluate.main([f"--model={TINY}", url, *flags, f"--output={tmp_path / 'two.json'}"]) == 0
    before, after = load(tmp_path / "two.before.json"), load(tmp_path / "two.after.json")
    assert before.items == after.items == tuple(items.values())
    assert len({sample.verdict for item in after.items for sample in (*item.greedy, *item.sampled)}) > 1
    assert (before.rule, after.settings["name"]) == (after.rule, "tiny")
    assert "cost: 240 prompt tokens" in (tmp_path / "two.md").read_text(encoding="utf-8")
    assert "+0.0 [" in capsys.readouterr().out
    assert len(server.requests) == 6
    assert evaluate.main([url, *flags, f"--output={tmp_path / 'two.after.json'}"]) == 0
    assert len(server.requests) == 6 and "6 of 6" in capsys.readouterr().out  # all are stored already
    assert load(tmp_path / "two.after.json").items == after.items


def test_the_key_comes_from_the_environment_and_is_not_written(small_defaults, serve, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    server = serve(lambda body, number: completion("<think>x</think><answer>y</answer>", 5))
    flags = ["--name=m", "--key-variable=MY_KEY", "--people=2", "--count=2", "--samples=0"]
    assert evaluate.main([f"--model={server.url}", *flags, f"--output={tmp_path / 'out.json'}"]) == 0
    headers, body = server.requests[0]
    assert headers["Authorization"] == "Bearer sk-secret"
    assert [message["role"] for message in body["messages"]] == ["system", "user"]  # form chat, without opened <think>
    assert "<think> and </think>" in body["messages"][0]["content"]
    written = [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()]
    assert len(written) == 4 and not any("sk-secret" in text for text in [*written, capsys.readouterr().out])


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--name=m", "--form=chat", "--opens-think", "--output=O"], "without --opens-think"),
        (["--name=m", "--form=base", "--output=O"], "--form=chat"),
        (["--name=m"], "expected --output=FILE.json"),
        (["--output=O"], "expected a --name for each"),
        (["--name=m", "--output=O", "--model=/no/such"], "no folder /no/such"),
        (["--name=m", "--name=n", "--output=O", "--model=https://h/v1"], "OPENAI_API_KEY"),
        (["--name=m", "--output=O", "--concurrency=0"], "concurrency"),
        (["--name=m", "--output=O", "--retries=-1"], "retries"),
        (["--name=m", "--output=O", "--key-variable=A", "--key-variable=B"], "one for each URL"),
    ],
)
def test_errors_come_before_any_request(small_defaults, serve, tmp_path, monkeypatch, capsys, more, sentence):
    monkeypatch.chdir(tmp_path)
    server = serve(lambda body, number: completion("x", 1))
    assert evaluate.main([f"--model={server.url}", "--people=2", "--count=2", *more]) == 2
    assert sentence in capsys.readouterr().err
    assert not server.requests and not list(tmp_path.iterdir())


def test_the_second_model_is_checked_before_the_first_is_evaluated(
    small_defaults, serve, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(evaluation, "evaluate_model", lambda *_: pytest.fail("evaluated before the check"))
    server = serve(lambda body, number: completion("x", 1))
    flags = ["--name=m", "--form=terse", "--opens-think", f"--output={tmp_path / 'o.json'}"]
    assert evaluate.main([f"--model={TINY}", f"--model={server.url}", *flags]) == 2
    assert "without --opens-think" in capsys.readouterr().err and not server.requests


def test_stop_strings_of_a_run_are_refused(small_defaults, serve, tmp_path, capsys):
    small_defaults["stop"] = ["</answer>"]
    server = serve(lambda body, number: completion("x", 1))
    assert evaluate.main([f"--model={server.url}", "--name=m", f"--output={tmp_path / 'o.json'}"]) == 2
    assert "'</answer>'" in capsys.readouterr().err

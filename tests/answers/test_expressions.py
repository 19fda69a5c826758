"""math-1: expressions are compared by value, in a worker process that a hostile answer can't hold up."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from jaxrl.answers import expressions
from jaxrl.answers.expressions import ExpressionWorker, check_target, judge_math
from jaxrl.rewards import RULES, score
from jaxrl.score import main
from jaxrl.tasks.registry import make_task

ENDLESS = r"(9^{9^{9}})!"

TARGETS = [
    r"\frac{1}{2}", "(1,2]", r"(-\infty,3)\cup(5,\infty)", r"\{1,2,3\}", "1,2,3", "x=3", r"2\pi", r"\sqrt{2}",
    r"\text{Monday}", r"\text{(C)}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "x^2+2x+1", r"18\%", r"x \ge 3",
    r"\emptyset", "2i+3",
    r"so \boxed{\sqrt 2}.", r"(3, \frac{\pi}{2})", r"120^\circ", r"5.4 \text{ cents}", r"\$18.90", r"11,\! 111,\! 111",
    r"17\text{ or }18", r"\frac{270}7\text{ degrees}", r"\left( \frac{1}{2}, 3 \right]", r"x \in [-2,7]", "k^2", "10_7",
]  # fmt: skip

VERDICTS = [
    # numbers are read by the number reader
    ("0.5", r"\frac{1}{2}", "correct"), (r"\frac{2}{4}", r"\frac12", "correct"), ("0.333", r"\frac13", "wrong_answer"),
    (r"\boxed{9{,}500}", "500", "wrong_answer"), ("5 = 6", "6", "unparseable"), ("1 2", "3", "unparseable"),
    ("18", r"18\%", "correct"), ("2+3", "5", "unparseable"),
    # expressions by value
    ("$(1,2]$", "(1,2]", "correct"), ("[1,2]", "(1,2]", "wrong_answer"), ("(1,2)", "(1,2]", "wrong_answer"),
    ("3,2,1", "1,2,3", "correct"), (r"\{3,2,1\}", r"\{1,2,3\}", "correct"), ("1,2", "1,2,3", "wrong_answer"),
    (r"\frac{2}{\sqrt{2}}", r"\sqrt{2}", "correct"), ("1.41421356", r"\sqrt{2}", "wrong_answer"),
    (r"The answer is $\sqrt{2}$.", r"\sqrt2", "correct"), (r"\boxed{\sqrt{2}}", r"so \boxed{\sqrt2}", "correct"),
    (r"x = \sqrt2", r"\sqrt2", "correct"), (r"-\sqrt2", r"\sqrt2", "wrong_answer"), ("1+2x+x^2", "x^2+2x+1", "correct"),
    (r"y=3+2x", "y = 2x + 3", "correct"), (r"\begin{pmatrix}1&2\\3&5\end{pmatrix}",
     r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "wrong_answer"),
    # words
    ("monday", r"\text{Monday}", "correct"), ("not Monday", r"\text{Monday}", "wrong_answer"), ("(c)", "C", "correct"),
    # qualified, doubled or unclear
    (r"not \sqrt2", r"\sqrt2", "unparseable"), (r"\sqrt2?", r"\sqrt2", "unparseable"),
    (r"\approx \sqrt2", r"\sqrt2", "unparseable"),
    (r"\sqrt2 or 3", r"\sqrt2", "wrong_answer"), (r"\boxed{\sqrt2} and \boxed{1}", r"\sqrt2", "unparseable"),
    (r"\sqrt3 = \sqrt2", r"\sqrt2", "unparseable"), ("", r"\sqrt2", "unparseable"), ("}{", r"\sqrt2", "unparseable"),
    ("(x+1)^2", "x^2 + 2x + 1", "unparseable"), (r"\sqrt2" * 200, r"\sqrt2", "unparseable"),
]  # fmt: skip
QUIZ = "Expand $(x+1)^2$ on Monday."


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_that_is_accepted_is_judged_correct_by_itself(target):
    assert check_target(target) == ""
    assert judge_math(expressions._boxed(target), target, "") == ("correct", "")


@pytest.mark.parametrize("target", ["", "}{", r"\frac{1}{", r"\boxed{}"])
def test_a_target_without_an_expression_is_refused(target):
    assert check_target(target)


@pytest.mark.parametrize(("answer", "target", "verdict"), VERDICTS)
def test_verdicts(answer, target, verdict):
    assert judge_math(answer, target, QUIZ)[0] == verdict, judge_math(answer, target, QUIZ)


def test_an_endless_comparison_ends_and_the_next_answer_is_judged():
    worker = ExpressionWorker()
    try:
        assert worker.compare(r"\sqrt2", ENDLESS) == (
            "unparseable",
            "the comparison needs more than 5 seconds of computing",
        )
        assert worker.compare(r"\sqrt2", r"\sqrt2") == ("correct", "")
    finally:
        worker.close()


def test_a_worker_that_was_killed_is_replaced():
    worker = ExpressionWorker()
    try:
        assert worker.compare("x", "x")[0] == "correct"
        os.kill(worker._process.pid, signal.SIGKILL)
        assert worker.compare("x", "y")[0] == "wrong_answer"
    finally:
        worker.close()


def test_threads_get_the_verdicts_of_their_own_answers():
    found, lock = {}, threading.Lock()

    def judge(number):
        verdict = judge_math(f"{number % 7}x", "3x", "")
        with lock:
            found[number] = verdict[0]

    threads = [threading.Thread(target=judge, args=(number,)) for number in range(28)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: "correct" if number % 7 == 3 else "wrong_answer" for number in range(28)}


def test_an_interrupted_request_does_not_answer_the_next_one(monkeypatch):
    worker = ExpressionWorker()
    try:
        assert worker.compare("x", "x")[0] == "correct"
        with monkeypatch.context() as patched:
            patched.setattr(expressions, "_read_reply", lambda process: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                worker.compare("x", "y")
        assert worker.compare("x", "x")[0] == "correct"
    finally:
        worker.close()


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


PROGRAM = """
import os, sys
from jaxrl.answers.expressions import WORKER
print(WORKER.compare("x", "x")[0], WORKER._process.pid, flush=True)
{ending}
"""


@pytest.mark.parametrize("ending", ["", "os._exit(1)", "raise SystemExit(3)"])
def test_no_worker_outlives_its_program(ending):
    program = [sys.executable, "-c", PROGRAM.format(ending=ending)]
    verdict, pid = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=False).stdout.split()
    assert verdict == "correct"
    deadline = time.monotonic() + 60
    while alive(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(int(pid))


FORKING = """
import os
from jaxrl.answers.expressions import WORKER
WORKER.compare("x", "x")
first = WORKER._process.pid
child = os.fork()
if child == 0:
    right = WORKER.compare("x", "y")[0] == "wrong_answer" and WORKER._process.pid != first
    WORKER.close()
    os._exit(0 if right else 1)
assert os.waitpid(child, 0)[1] == 0
assert WORKER.compare("x", "x")[0] == "correct" and WORKER._process.pid == first
"""


def test_a_forked_process_has_a_worker_of_its_own():
    subprocess.run([sys.executable, "-c", FORKING], check=True)


RESPONSE = (
    "<think>Square both sides: the length squared is 2, so the length is a root of two.</think><answer>{}</answer>"
)


def test_the_rule_judges_the_answer_part():
    verdicts = [
        score(
            RESPONSE.format(answer),
            quiz="How long is the diagonal of a unit square?",
            target=r"\sqrt{2}",
            rule="math-1",
            prompt_opens_think=False,
            truncated=False,
        )
        for answer in (r"\sqrt{2}", r"\sqrt{3}", "unknown value")
    ]
    assert [verdict.verdict for verdict in verdicts] == ["correct", "wrong_answer", "unparseable"]
    assert [verdict.reward for verdict in verdicts] == [3.0, -0.5, -1.0]  # each part of the reward once
    with pytest.raises(ValueError, match="rule math-1 can't judge by the target"):
        score(
            "",
            quiz="How long is the diagonal of a unit square?",
            target="}{",
            rule="math-1",
            prompt_opens_think=False,
            truncated=False,
        )


@pytest.fixture
def without_math_verify(monkeypatch):
    found = expressions.importlib.util.find_spec
    monkeypatch.setattr(
        expressions.importlib.util, "find_spec", lambda name: None if name == "math_verify" else found(name)
    )


def test_a_missing_package_is_reported_before_anything_is_written(without_math_verify, tmp_path, capsys):
    fields = {"name": "gsm8k", "files": {"math": {"test": "none.jsonl"}}}
    with pytest.raises(ValueError, match=r"reward.rule: for the rule math-1, .* pip install 'jaxrl\[math\]'"):
        make_task(fields, "math-1")
    assert make_task(fields, "gsm8k-2")
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"response": "", "quiz": "", "target": "x", "prompt_opens_think": False}) + "\n")
    assert main([f"--input={source}", f"--output={tmp_path / 'out.jsonl'}", "--rule=math-1"]) == 2
    assert "pip install 'jaxrl[math]'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_worker_that_cannot_start_is_an_error_and_not_a_verdict(monkeypatch):
    monkeypatch.setattr(expressions.sys, "executable", "/bin/true")
    with pytest.raises(RuntimeError, match="math-verify does not start"):
        ExpressionWorker().compare("x", "x")


def test_only_this_rule_needs_the_package():
    assert [name for name, rule in RULES.items() if rule.check_installed is not str] == ["math-1"]

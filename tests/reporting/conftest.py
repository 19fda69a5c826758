"""Run folders whose texts all try to inject HTML into the page."""

import dataclasses
import json

import pytest

from jaxrl.evaluation.results import EvaluationResult, Item, Sample
from jaxrl.reporting.rollouts import GroupRecord, ResponseRecord, write_rollouts
from jaxrl.reporting.run_folder import write_evaluation
from jaxrl.reporting.writers import JsonlWriter

HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)><!-- \u2028 & '\" 等等 \U0001f600 **bold** "
    "<a href=https://example.org>"
)


def response(verdict="correct", text=HOSTILE):
    return ResponseRecord(text, verdict, (HOSTILE,), (), 1.0, 2.0, 3.0, 0.5, 9, True)


def result(name, right, step):
    items = []
    for index in range(10):
        answer = Sample("correct" if index < right else "bad_format", 9, True, "guess", HOSTILE)
        items.append(Item(f"e{index}", "p3", HOSTILE, "Ann is a knight", False, (answer,), (answer, answer)))
    return EvaluationResult(name, HOSTILE, step, "rule-1", {}, tuple(items), published=True)


def verified(text=HOSTILE, sound=True, verdict="correct", error=HOSTILE, marked="<img"):
    """A response with verified reasoning; `marked` is its first wrong step."""
    start = text.find(marked)
    wrong = {} if sound else {"error": error, "span": (start, start + len(marked))}
    return response(verdict, text)._replace(sound=sound, **wrong)


def write_verified_run(folder):
    """4 steps with one group of four responses: sound, correct with a hostile wrong step, wrong, and badly formed."""
    writer = JsonlWriter(folder / "metrics.jsonl")
    writer.write({"step": 0, "evaluation/p3/sampled/accuracy": 0.2, "evaluation/p3/sampled/sound": 0.1})
    for step in range(1, 5):
        record = {"step": step, "stage": "one", "share/correct": 0.5, "share/sound": 0.25, "reward/mean": 0.0}
        record |= {"reasoning_errors/check_wrong_role": 0.5} if step != 2 else {}
        record |= {"evaluation/p3/sampled/accuracy": 0.2, "evaluation/p3/sampled/sound": 0.1}
        writer.write(record)
        answers = (
            verified("So it is."),
            verified(sound=False),
            verified("Cal=knave knight yes.", False, "wrong_answer", "check: wrong role", "Cal=knave knight yes."),
            verified("", False, "bad_format", "no case tried", ""),
        )
        group = GroupRecord(step, "one", 0, "kk-1", "p3", "Who?", "Ann: knight", answers, "Who?")
        write_rollouts(folder / "rollouts", step, [group])
    writer.close()
    for name, sound, step in (("before", 1, 0), ("after", 5, 4)):
        plain = result(name, 8, step)
        items = []
        for index, item in enumerate(plain.items):
            found = (True, "", (0, 0)) if index < sound else (False, "check: wrong role", (0, 9))
            sample = Sample(*item.greedy[0][:5], *found)
            items.append(item._replace(greedy=(sample,), sampled=(sample, sample)))
        write_evaluation(folder, dataclasses.replace(plain, items=tuple(items)))
    return folder


def write_run(folder):
    """8 steps in two stages, each with three groups: two equal correct responses and a wrong one."""
    writer = JsonlWriter(folder / "metrics.jsonl")
    writer.write({"step": 0, "evaluation/p3/greedy/accuracy": 0.1})
    for step in range(1, 9):
        record = {"step": step, "stage": "one" if step < 5 else "two", "reward/mean": step / 4 - 1}
        record |= {"share/correct": step / 10, "share/wrong_answer": 1 - step / 10, "suspects/truncated": 0}
        record |= {"length/mean": 50.0, "tokens/rollout": 450, "behaviour/verification": 1 / 3}
        record |= {"behaviour/verification/with": 1.0,
                   "behaviour/verification/without": 0.5, "behaviour/boxed": 0.0}  # fmt: skip
        if step == 3:
            record |= {"gradient_norm": float("nan"), "warnings": [HOSTILE]}
        writer.write(record)
        groups = [
            GroupRecord(step, "one" if step < 5 else "two", n, f"kk-{(step + n) % 4}", "p3" if n else "p5", HOSTILE,
                        "Ann: knight", (response(), response("wrong_answer", "Let me check."), response()), HOSTILE)
            for n in range(3)
        ]  # fmt: skip
        write_rollouts(folder / "rollouts", step, groups)
    writer.close()
    write_evaluation(folder, result("after", 7, 8))
    write_evaluation(folder, result("before", 2, 0))
    (folder / "config.json").write_text(json.dumps({"note": HOSTILE, "model": HOSTILE}))
    trip = folder / "guard" / "trip_1"
    trip.mkdir(parents=True)
    (trip / "cause.json").write_text(json.dumps({"cause": "the KL is high", "step": 5}))
    return folder


@pytest.fixture(scope="session")
def hostile():
    """The text of all responses, questions and configs of these runs."""
    return HOSTILE


@pytest.fixture(scope="session")
def evaluated():
    """`evaluated(name, right, step)`: an evaluation on ten problems of which `right` are solved."""
    return result


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    """A run folder."""
    return write_run(tmp_path_factory.mktemp("runs") / "a <b>run")


@pytest.fixture(scope="session")
def verified_run(tmp_path_factory):
    """A run folder with verified reasoning."""
    return write_verified_run(tmp_path_factory.mktemp("verified") / "run")


@pytest.fixture(scope="session")
def workdirs(workdir, tmp_path_factory):
    """Three run folders."""
    return [workdir, *(write_run(tmp_path_factory.mktemp("more") / name) for name in ("second", "third"))]

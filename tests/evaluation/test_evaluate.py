"""Evaluation of a policy in plain Python: statistics, stored responses and comparisons."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from jaxrl.evaluation.evaluate import evaluate
from jaxrl.evaluation.intervals import clustered_proportion
from jaxrl.evaluation.results import (
    ALL,
    comparison_markdown,
    differences,
    format_estimate,
    from_json,
    markdown,
    rows,
    to_json,
    to_metrics,
)
from jaxrl.rewards import Verdict
from jaxrl.tasks.problem import Problem
from jaxrl.tasks.task import Reasoning

EOS = 99
WORDS = {1: "correct", 2: "wrong_answer", 3: "bad_format"}


PROBLEMS = [
    Problem(f"id{index}", f"p{2 + index % 2}", f"Q{index}", "", "", bool(index % 2), (), index) for index in range(8)
]


def judge(problem, response, truncated):
    word = "bad_format" if truncated else WORDS[int(response.split()[-1])]
    return Verdict(word, (), 1.0, 1.0, 2.0, "rule-1", ())


def policy(last, calls=None):
    """Responds 7 7 <last(prompt, sample)> EOS; a response with a last token of 0 is not finished."""

    def generate(prompts, group_size, step, greedy):
        if calls is not None:
            calls.append((len(prompts), group_size, step, greedy))
        tokens = [[7, 7, last(prompt[0], sample)] for prompt in prompts for sample in range(group_size)]
        finished = np.array([row[-1] != 0 for row in tokens])
        padded = np.array([[*row, EOS, EOS] for row in tokens], np.int32)
        return SimpleNamespace(tokens=padded, lengths=np.where(finished, 4, 3), finished=finished)

    return generate


def measure(last, calls=None, **options):
    return evaluate(
        policy(last, calls),
        PROBLEMS,
        encode=lambda problem: [problem.content],
        decode=lambda tokens: " ".join(str(token) for token in tokens if token != EOS),
        judge=judge,
        **{"samples": 4, "step": 5, "classify": lambda text: "guess"} | options,
    )


def by_key(result):
    return {(row.kind, row.mode): row for row in rows(result)}


def test_statistics_by_kind():
    calls = []
    # p3 (odd puzzles): always correct; p2: of four samples one is correct, one badly formatted, one truncated
    found = by_key(measure(lambda prompt, sample: 1 if prompt % 2 else (1, 2, 3, 0)[sample], calls))
    assert calls == [(8, 1, 5, True), (8, 4, 5, False)]  # all prompts at once: the index is the sampling coordinate
    assert list(found) == [(p, m) for p in ("p2", "p3", ALL) for m in ("greedy", "sampled")]
    two, three = found["p2", "sampled"], found["p3", "sampled"]
    assert (two.accuracy.value, two.well_formed_accuracy.value, two.format_errors.value) == (0.25, 0.5, 0.5)
    assert (two.truncated, two.mean_tokens, two.problems, two.samples) == (0.25, 3.75, 4, 4)
    assert (two.constant_answer_accuracy, three.constant_answer_accuracy) == (0.0, 1.0)
    assert two.pass_at[1].value == 0.25
    assert two.pass_at[4].value == 1.0
    assert three.accuracy.value == 1.0
    assert three.accuracy.low < 0.6  # wide with four puzzles, for any number of samples
    assert found[ALL, "greedy"].accuracy.value == 1.0
    assert two.styles == {"guess": 1.0}


def test_response_excludes_the_end_token_and_one_response_is_stored():
    item = measure(lambda prompt, sample: 1).items[0]
    assert [sample.response for sample in item.sampled] == ["7 7 1", "", "", ""]
    assert item.greedy[0].response == "7 7 1"


def test_json_round_trip_and_metrics():
    result = measure(lambda prompt, sample: 0, settings={"temperature": 1.0})
    text = to_json(result)
    assert from_json(text) == result
    assert "NaN" not in text  # no response is well-formed, so that accuracy is null
    assert to_metrics(result)["evaluation/all/greedy/format_errors"] == 1.0
    with pytest.raises(ValueError, match="JSON of an evaluation"):
        from_json("{}")


def test_before_and_after_are_paired_by_problem():
    before = measure(lambda prompt, sample: 1 if prompt < 2 else 2, name="before")
    after = measure(lambda prompt, sample: 1 if prompt < 6 else 2, name="after")
    change = differences(before, after)[ALL, "greedy"]
    assert (change.value, change.better, change.worse, change.equal) == (0.5, 4, 0, 4)
    assert "+50.0 [" in comparison_markdown(before, after)
    assert "before | after" in comparison_markdown(before, after)
    with pytest.raises(ValueError, match="same problems"):
        differences(before, evaluate_on_fewer())


def evaluate_on_fewer():
    full = measure(lambda prompt, sample: 1)
    return type(full)(full.name, full.model, full.step, full.rule, full.settings, full.items[:-1])


def test_table_with_baseline_and_published_accuracies():
    result = measure(lambda prompt, sample: 1)
    text = markdown(result)
    assert "GPT-4o" not in text and not result.published  # these problems have another distribution
    comparable = markdown(dataclasses.replace(result, published=True))
    assert "same distribution" in comparable and "| GPT-4o | 68% | 57% |" in comparable
    assert "| 3 people | greedy | 4 x 1 | 100.0% [51.0, 100.0] |" in text
    assert "100.0% |\n" in text  # the constant-answer baseline on three people
    assert "| pass@k | 2 | 4 | constant answer |\n|---|---|---|---|\n" in text
    assert "| 2 people | 100.0% [51.0, 100.0] | 100.0% [51.0, 100.0] | 0.0% |\n" in text
    assert "sound" not in text  # this task verifies nothing
    assert "pass@k" not in markdown(measure(lambda prompt, sample: 1, samples=1))


def measure_sound(name="evaluation", wrong=(1,)):
    """Four responses to each problem of two people: correct, correct, bad format, wrong answer.

    The samples `wrong` have a wrong step, and so has the wrong answer; the others reason soundly.
    """
    sampled = {}

    def check_reasoning(problem, text):
        index = sampled[problem.id] = sampled.get(problem.id, -1) + 1
        if problem.kind == "p3":
            return Reasoning(True, "", (0, 0))
        if index - 1 in wrong:  # the first response is the greedy one
            return Reasoning(False, "check: wrong role", (2, 5))
        return Reasoning(False, "no case tried", (0, 5)) if text.endswith("2") else Reasoning(True, "", (0, 0))

    return measure(
        lambda prompt, sample: 1 if prompt % 2 else (1, 1, 3, 2)[sample], name=name, check_reasoning=check_reasoning
    )


def test_sound_accuracy_is_beside_accuracy():
    result = measure_sound()
    two, three = (by_key(result)[kind, "sampled"] for kind in ("p2", "p3"))
    assert (two.accuracy.value, two.sound.value, three.sound.value) == (0.5, 0.25, 1.0)
    assert two.sound == clustered_proportion([1] * 4, [4] * 4)
    assert {k: (two.pass_at[k].value, two.sound_pass_at[k].value) for k in (1, 2, 4)} == {
        1: (0.5, 0.25), 2: (pytest.approx(5 / 6), 0.5), 4: (1.0, 1.0),
    }  # fmt: skip
    assert two.reasoning_errors == {"check: wrong role": 0.25, "no case tried": 0.25}
    metrics = to_metrics(result)
    assert (metrics["evaluation/p2/sampled/sound"], metrics["evaluation/all/sampled/sound"]) == (0.25, 0.625)
    assert from_json(to_json(result)) == result
    assert json.loads(to_json(result))["rows"][1]["sound"]["value"] == 0.25


def test_tables_of_sound_accuracy():
    result = measure_sound("after")
    text = markdown(result)
    assert "| accuracy | sound | well-formed |" in text
    assert f"| {format_estimate(clustered_proportion([2] * 4, [4] * 4))} | 25.0% [" in text
    assert "| 2 people, sound | 50.0% [15.0, 85.0] | 100.0% [51.0, 100.0] | 0.0% |\n" in text
    assert "| first wrong step | 2 people | 3 people |\n|---|---|---|\n| check: wrong role | 25.0% | 0.0% |\n" in text
    comparison = comparison_markdown(measure_sound("before", wrong=(0, 1)), result)
    assert "| difference | sound | well-formed |" in comparison
    assert "| 0.0% [0.0, 49.0] -> 25.0% [" in comparison
    assert "| constant answer |" in comparison


def test_results_without_verified_reasoning_have_no_soundness():
    """Not zero, not nan: those of tasks that can't verify, and those stored by an earlier version."""
    result = measure(lambda prompt, sample: 1)
    assert all(row.sound is None and not row.sound_pass_at and not row.reasoning_errors for row in rows(result))
    assert not any(name.endswith("/sound") for name in to_metrics(result))
    record = json.loads(to_json(result))
    for item in record["items"]:
        for sample in (*item["greedy"], *item["sampled"]):
            del sample["sound"], sample["error"], sample["span"]
    assert from_json(json.dumps(record)) == result


def test_invalid_arguments():
    with pytest.raises(ValueError, match="at least one problem"):
        evaluate(policy(lambda p, s: 1), [], encode=list, decode=str, judge=judge)
    with pytest.raises(ValueError, match="samples"):
        measure(lambda prompt, sample: 1, samples=0, greedy=False)
    assert {row.mode for row in rows(measure(lambda prompt, sample: 1, samples=0))} == {"greedy"}

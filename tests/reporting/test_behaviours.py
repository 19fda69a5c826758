"""Behaviour detection: the examples of each phrase list, and the metrics."""

import json
from pathlib import Path

import pytest

from jaxrl.reporting import behaviours

WORDS = Path(behaviours.__file__).parent / "words"
EXAMPLES = [
    (behaviour, text, wanted)
    for language in ("english", "chinese")
    for behaviour, listed in json.loads((WORDS / f"{language}.json").read_text(encoding="utf-8")).items()
    for wanted, texts in ((True, listed["match"]), (False, listed["not_match"]))
    for text in texts
]


@pytest.mark.parametrize(("behaviour", "text", "wanted"), EXAMPLES)
def test_phrase_lists_match_their_examples(behaviour, text, wanted):
    assert (behaviours.count_behaviours(text)[behaviour] > 0) == wanted


FORMS = [
    ("rethinking", "<think>a</think><answer>Ann is a knight. Wait, she lies.</answer>", True),
    ("rethinking", "<answer>Ann is a knight.</answer><think>Or not.</think>", True),
    ("rethinking", "<think>Wait, try again.</think><answer>Ann is a knight.</answer>", False),
    ("markdown", "## Answer\n**Ann** is a knight", True),
    ("markdown", "- Ann: knight\n- Bob: knave", True),
    ("markdown", "2 * 3 * 4 - 1, snake_case", False),
    ("boxed", "The answer: \\boxed{72}", True),
    ("boxed", "It is boxed in.", False),
    ("repetition", "no bad so Ann lies and Bob lies too again. " * 8, True),
    ("repetition", "Try Ann=knight Bob=knave Cal=knight. Ann: Bob knave yes so true ok. All fit.", False),
    ("mixed_language", "Suppose that Ann is a knight and 那么鲍勃是无赖", True),
    ("mixed_language", "Suppose that Ann is a knight and Bob is honest.", False),
    (
        "mixed_language",
        "the case is that Ann lies; wenn das nicht stimmt, dann ist Bob ein Lügner und wir sind fertig",
        True,
    ),
]


@pytest.mark.parametrize(("behaviour", "text", "wanted"), FORMS)
def test_format_and_language_behaviours(behaviour, text, wanted):
    assert (behaviours.count_behaviours(text)[behaviour] > 0) == wanted


def test_names_in_another_script_are_not_another_language():
    text = "Suppose that 雅婷小龙 is a knight and then she is honest because she says it."
    assert behaviours.count_behaviours(text)["mixed_language"] > 0
    assert behaviours.count_behaviours(text, names=("雅婷小龙",))["mixed_language"] == 0


def test_hits_give_the_position_of_the_phrase():
    text = "So true. Wait, try Ann=knave. All fit."
    shown = {(hit.behaviour, text[hit.start : hit.end]) for hit in behaviours.find_behaviours(text)}
    assert {("hesitation", "Wait"), ("backtracking", "Wait, try"), ("verification", "All fit")} <= shown


def test_response_styles_of_the_bundled_model_are_distinguished():
    guess = behaviours.count_behaviours("<think>Ann sounds honest, Bob sounds sly. I will go with that.</think>")
    careful = behaviours.count_behaviours(
        "<think>Try Ann=knight Bob=knight. Ann: Bob knave no so false bad. "
        "Wait, try Ann=knight Bob=knave. Ann: Bob knave yes so true ok. All fit.</think>"
    )
    assert guess["guessing"] and not guess["verification"] and not guess["case_splitting"]
    assert not careful["guessing"]
    assert all(careful[name] for name in ("hesitation", "backtracking", "case_splitting", "verification"))


def test_metrics_split_accuracy_by_behaviour():
    counts = [
        behaviours.count_behaviours(text) for text in ("Wait, Bob lies.", "Wait. Hmm, no.", "Bob lies.", "Cal lies.")
    ]
    metrics = behaviours.behaviour_metrics(counts, [True, False, False, False], 1)
    assert metrics["behaviour/hesitation"] == 0.5
    assert metrics["behaviour/hesitation/count"] == 0.75
    assert metrics["behaviour/hesitation/with"] == 0.5
    assert metrics["behaviour/hesitation/without"] == 0.0
    assert metrics["behaviour/hesitation/with_low"] == pytest.approx(0.0945, abs=1e-4)  # Wilson, 1 of 2
    assert "behaviour/boxed/with" not in metrics
    for wrong in (([True], 1), ([True] * 4, 3)):
        with pytest.raises(ValueError, match="one correctness flag per response"):
            behaviours.behaviour_metrics(counts, *wrong)


def test_intervals_are_clustered_by_prompt():
    counts = [behaviours.count_behaviours("Wait, Bob lies.")] * 40
    correct = [True] * 10 + [False] * 10 + [True] * 10 + [False] * 10  # each prompt is solved either always or never
    alone, grouped = (behaviours.behaviour_metrics(counts, correct, size) for size in (1, 10))
    width = [m["behaviour/hesitation/with_high"] - m["behaviour/hesitation/with_low"] for m in (alone, grouped)]
    assert alone["behaviour/hesitation/with"] == grouped["behaviour/hesitation/with"] == 0.5
    assert width[1] > 2 * width[0]

"""Laws of the format in version 2: copies, loops and salad never pay, honest thinking of every style does."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.generate import generate
from data_gen.prompts import PromptSpec, build_prompt, puzzle_instruction, question_text
from data_gen.response_styles import STYLES, answer_text, think
from data_gen.spec import PuzzleSpec
from jaxrl.rewards import SUSPECTS, score
from jaxrl.rewards.format import END_TOKENS, strip_end_token
from jaxrl.rewards.thinking import judge_thinking

pytestmark = pytest.mark.check

LAWS = settings(max_examples=150, deadline=None, derandomize=True, database=None)
VARIANTS = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "golden" / "format_variants.jsonl").read_text("utf-8").splitlines()
]
PUZZLES = {people: list(generate(PuzzleSpec(people, depth=1, width=2), people, 6)) for people in (2, 3, 5, 8)}
ANY_PUZZLE = st.sampled_from([puzzle for puzzles in PUZZLES.values() for puzzle in puzzles])
QUESTIONS = (
    "A bakery sells 24 rolls in the morning and half as many in the afternoon. How many rolls is that in 5 days?",
    "Ann has 3 apples and buys 4. How many has she?",
    "小明有3个苹果，又买了4个。他一共有几个苹果？",
)
HONEST = (
    "If Zoey lied then Oliver would be truthful, which contradicts Aria.",
    "Twelve in the afternoon and 24 in the morning make 36 rolls a day.",
    "3 + 4 = 7",
    "所以一共有七个苹果",
)
FILLERS = ("", "Let me think about this step by step. ", "Okay: ", "Here is my reasoning: ", "so ")


def is_paid(thinking, quiz, answer="217", names=(), roles=()):
    return not judge_thinking(thinking, quiz=quiz, answer=answer, names=names, roles=roles).reasons


EXPECTED = {"honest": "correct", "policy": "correct", "trick": "bad_format", "cost": "bad_format"}


def verdict_of(case, version):
    rule = case["rule"].replace("-2", f"-{version}")
    return score(
        case["response"],
        quiz=case["quiz"],
        people=case.get("people", ()),
        roles=case.get("roles", ()),
        target=case.get("target"),
        rule=rule,
        prompt_opens_think=case["prompt_opens_think"],
        truncated=False,
    )


@pytest.mark.parametrize("case", VARIANTS, ids=[case["id"] for case in VARIANTS])
def test_a_variant_has_the_right_verdict_and_version_1_keeps_its_own(case):
    """policy: no thinking but paid, since a criterion against it would refuse honest thinking. cost: the reverse."""
    verdict = verdict_of(case, 2)
    assert verdict.verdict == EXPECTED[case["kind"]], verdict.reasons
    assert set(verdict.suspects) <= set(SUSPECTS)
    assert verdict_of(case, 1).verdict == case["version1"]


def test_the_variants_are_many_and_half_of_them_honest():
    honest = sum(case["kind"] == "honest" for case in VARIANTS)
    assert len(VARIANTS) >= 100 and 0.4 <= honest / len(VARIANTS) <= 0.6


@LAWS
@given(ANY_PUZZLE, st.randoms(use_true_random=False), st.sampled_from(FILLERS), st.floats(0.1, 1.0), st.integers(1, 4))
def test_the_words_of_a_puzzle_in_any_order_never_pay(puzzle, order, filler, share, times):
    words = puzzle.quiz.split()
    chosen = [word for _ in range(times) for word in order.sample(words, max(1, round(share * len(words))))]
    assert not is_paid(
        filler + " ".join(chosen), puzzle.quiz, answer_text(puzzle, puzzle.solution), puzzle.names, puzzle.roles
    )


@LAWS
@given(st.sampled_from(QUESTIONS), st.randoms(use_true_random=False), st.sampled_from(FILLERS), st.integers(1, 4))
def test_the_words_of_a_question_in_any_order_never_pay(quiz, order, filler, times):
    unspaced = " " not in quiz
    words = list(quiz) if unspaced else quiz.split()
    text = ("" if unspaced else " ").join(word for _ in range(times) for word in order.sample(words, len(words)))
    assert not is_paid(filler + text, quiz)
    assert not is_paid(filler + text[::-1], quiz)


@pytest.mark.parametrize("form", ["base", "chat"])
@LAWS
@given(puzzle=ANY_PUZZLE, order=st.randoms(use_true_random=False), shuffled=st.booleans())
def test_the_words_of_the_prompt_never_pay(form, puzzle, order, shuffled):
    prompt = build_prompt(question_text(puzzle, form), puzzle_instruction(puzzle), PromptSpec("base"), None)
    words = re.sub("</?(think|answer)>", " ", prompt).split()
    text = " ".join(order.sample(words, len(words)) if shuffled else words)
    assert not is_paid(text, puzzle.quiz, answer_text(puzzle, puzzle.solution), puzzle.names, puzzle.roles)


@LAWS
@given(st.sampled_from(HONEST), st.integers(5, 60), st.sampled_from((" ", ". ", "\n", "\n\n")), ANY_PUZZLE)
def test_a_sentence_written_five_times_or_more_never_pays(sentence, times, joint, puzzle):
    repeated = joint.join([sentence] * times)
    for quiz in (*QUESTIONS, "Zoey says: Oliver is a knave. Oliver says: Aria is a knight."):
        assert not is_paid(repeated, quiz, answer="7")


@LAWS
@given(st.lists(st.text("bcdfghjklmnpqrstvwxz", min_size=4, max_size=9), min_size=1, max_size=40), ANY_PUZZLE)
def test_nonsense_words_never_pay(words, puzzle):
    assert not is_paid(" ".join(words), puzzle.quiz, "x", puzzle.names, puzzle.roles)
    assert not is_paid(" ".join(words), QUESTIONS[0])


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("people", PUZZLES)
def test_every_style_of_the_embedded_model_pays(style, people):
    for number, puzzle in enumerate(PUZZLES[people]):
        thinking, case = think(puzzle, style, np.random.default_rng(number))
        answer = answer_text(puzzle, case)
        assert is_paid(thinking, puzzle.quiz, answer, puzzle.names, puzzle.roles), thinking[:200]


@LAWS
@given(
    st.integers(2, 98), st.integers(2, 98), st.sampled_from(("{a} + {b} = {c}", "{a}+{b}={c}.", "${a} + {b} = {c}$"))
)
def test_one_line_of_arithmetic_pays(a, b, form):
    quiz = f"Ann has {a} apples and buys {b}. How many has she?"
    assert is_paid(form.format(a=a, b=b, c=a + b), quiz, str(a + b))


@LAWS
@given(st.lists(st.sampled_from([*END_TOKENS, " ", "\n"]), max_size=6))
def test_end_tokens_and_padding_behind_a_response_are_removed(ending):
    assert strip_end_token("<answer>7</answer>" + "".join(ending)) == "<answer>7</answer>"


SPECIAL_TOKENS = """
<|im_start|> <|start_header_id|> <|begin_of_text|> <|python_tag|> <|user|> <|assistant|> <start_of_turn> <bos> [INST]
<s> <｜User｜> <｜Assistant｜> <｜begin▁of▁sentence｜> <｜tool▁calls▁begin｜>
"""


@pytest.mark.parametrize("special", [*END_TOKENS, *SPECIAL_TOKENS.split()])
def test_a_special_token_of_any_family_inside_the_thinking_is_reported(special):
    response = f"<think>3 + 4 = 7 {special} indeed</think><answer>7</answer>"
    verdict = score(response, quiz=QUESTIONS[1], target="7", rule="exact-2", prompt_opens_think=False, truncated=False)
    assert verdict.verdict == "bad_format" and "special_token" in verdict.suspects


def test_a_list_of_users_is_counted_but_paid():
    lines = [f"{speaker}: {count} logins" for speaker, count in (("User", 3), ("Assistant", 4), ("用户", 5))]
    order = random.Random(0)
    for _ in range(20):
        order.shuffle(lines)
        response = "<think>Count them.\n" + "\n".join(lines) + "\n3 + 4 + 5 = 12</think><answer>12</answer>"
        verdict = score(
            response, quiz="Who has 3 logins?", target="12", rule="exact-2", prompt_opens_think=False, truncated=False
        )
        assert (verdict.verdict, verdict.suspects) == ("correct", ("invented_turn",)), verdict.reasons

"""Laws of the rules: right answers in any rendering, wrong answers, tricks, arbitrary text, Unicode normal forms."""

import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxrl.rewards import RULES, VERDICTS, RewardValues, score
from jaxrl.rewards.unicode import has_mark_flood

pytestmark = pytest.mark.check

LAWS = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TRICKS = settings(LAWS, max_examples=15)

NAMES = [
    "Ann",
    "Bob",
    "Anne-Marie",
    "José",
    "Mary Ann",
    "Mary",
    "Sir Knight",
    "O'Brien",
    "Łukasz",
    "Анна",
    "小龙",
    "さくら",
    "민준",
    "प्रिया",
    "ليلى",
]
ROLES = [
    ("knight", "knave"),
    ("saint", "sinner"),
    ("monk", "thief"),
    ("truth-teller", "liar"),
    ("owl", "impostor"),
    ("骑士", "无赖"),
]
THINKING = "If {0} lied, then the first claim would refute itself; the others follow from it in turn."


@st.composite
def puzzles(draw):
    names = draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=5, unique=True))
    truth = draw(st.lists(st.integers(0, 1), min_size=len(names), max_size=len(names)))
    return names, draw(st.sampled_from(ROLES)), truth


def article(role):
    return "an" if role[0] in "aeiou" else "a"


PAIRS = (
    "{n} is {a} {r}",
    "{n}: {r}",
    "**{n}** is {a} **{r}**",
    "{n} - {r}",
    "{n} = {r}",
    "{n} -> {r}",
    "{n} ({r})",
    "`{n}`: _{r}_",
    "{n} must be {a} {r}",
    "{n} is {a} {r}, not {b} {o}",
    "{n} is {a} {r} (not {b} {o})",
    "{n}'s role is {r}",
    '"{n}": "{r}"',
)
JOINS = (", ", "; ", ". ", "\n", "\n- ", ",\n", " and ", ", and ", "\n\n", " while ")
FRAMES = (
    "{0}",
    "{0}.",
    "The answer is: {0}",
    "**Final answer:**\n\n{0}\n",
    "```\n{0}\n```",
    "So {0}.",
    "{{{0}}}",
    "| Name | Role |\n|---|---|\n{0}",
)


@st.composite
def renderings(draw, names, roles, truth):
    """A valid statement that person i has the role truth[i]."""
    order = draw(st.permutations(range(len(names))))
    recase = draw(st.sampled_from([str, str.upper, str.lower]))
    if draw(st.booleans()):
        form = draw(st.sampled_from(PAIRS))
        pairs = [
            form.format(
                n=names[i],
                r=roles[truth[i]],
                a=article(roles[truth[i]]),
                o=roles[1 - truth[i]],
                b=article(roles[1 - truth[i]]),
            )
            for i in order
        ]
        text = draw(st.sampled_from(JOINS)).join(pairs)
        return recase(draw(st.sampled_from(FRAMES)).format(text))
    groups = []
    for side in draw(st.permutations((0, 1))):
        members = [names[i] for i in order if truth[i] == side]
        joined = draw(st.sampled_from((", ", " and ", "\n- "))).join(members) or "none"
        groups.append(f"{roles[side]}: {joined}")
    return recase(draw(st.sampled_from((". ", "; ", "\n"))).join(groups))


def judge(puzzle, response, **options):
    names, roles, truth = puzzle
    quiz = " ".join(f"{name} says: {names[0]} is a {roles[0]}." for name in names) + " Who is what?"
    arguments = {
        "prompt_opens_think": False,
        "truncated": False,
        "target": "7",
        "verifier": str.isdigit,
        "rule": "strict-2",
    } | options
    return score(
        response,
        quiz=quiz,
        people=[(name, roles[side]) for name, side in zip(names, truth, strict=True)],
        roles=roles,
        **arguments,
    )


def wrap(puzzle, answer):
    return f"<think>{THINKING.format(puzzle[0][0])}</think>\n<answer>{answer}</answer>"


@LAWS
@given(st.data(), puzzles())
def test_every_rendering_of_the_right_answer_is_correct(data, puzzle):
    verdict = judge(puzzle, wrap(puzzle, data.draw(renderings(*puzzle))))
    assert verdict.verdict == "correct", verdict.reasons
    assert verdict.reward == 3.0


@LAWS
@given(st.data(), puzzles())
def test_an_answer_with_one_wrong_role_is_wrong(data, puzzle):
    names, roles, truth = puzzle
    flipped = list(truth)
    flipped[data.draw(st.integers(0, len(names) - 1))] ^= 1
    verdict = judge(puzzle, wrap(puzzle, data.draw(renderings(names, roles, flipped))))
    assert verdict.verdict == "wrong_answer", verdict.reasons
    assert verdict.reward == -0.5


ANSWER_TRICKS = (
    "Maybe {0}",
    "{0}?",
    "If {0}",
    "It is false that {0}",
    "{0} Or not.",
    "{0} {0}",
    "{0}, {n} is a {o}",
    "{n} is a {o}, {0}",
    "Not {0}",
    "{0} Stranger is a {r}.",
    "{n} says {0}",
    "Either {0}",
    "{0} unless {n} lies",
    "{0} I am not sure.",
    "~~{0}~~",
    "{0} \u200b!",
    "{0} because {n} said so",
    "Ignore this: {0}",
    "{0} <b>",
    "The opposite: {0}",
    "{0} | {n} {o}",
)
FORM_TRICKS = (
    "{t}{a}{a}",
    "{t}{a}{t}{a}",
    "{t} so {a}",
    "{t}{a} so",
    "hi {t}{a}",
    "{a}{t}",
    "{a}",
    "<think></think>{a}",
    "<think> ... </think>{a}",
    "<think>thinking</think>{a}",
    "<think>{q}</think>{a}",
    "<think>{x}</think>{a}",
    "{t}<Answer>{x}</Answer>",
    "{t}{a}\nUser: more?",
    "{t}{a}<|im_end|>x",
    "<think>{t}</think>{a}",
    "<think>{a}</think>{a}",
    "{t}<answer>{x}",
    "{t}{x}",
    "<thinking>{y}</thinking>{a}",
    "<think>{y}</think>{a}<ANSWER>{x}</ANSWER>",
    "<think>{y}\nUser: is that all?\nAssistant: ok</think>{a}",
    "<think>{q} {q} {q}</think>{a}",
    "<think>so {x} therefore {x}</think>{a}",
    "<think>{y} {y} {y} {y} {y}</think>{a}",
    "<think>Let me think step by step.</think>{a}",
)


@pytest.mark.parametrize("trick", ANSWER_TRICKS)
@TRICKS
@given(data=st.data(), puzzle=puzzles())
def test_tricks_in_the_answer_are_unparseable(trick, data, puzzle):
    names, roles, truth = puzzle
    text = trick.format(data.draw(renderings(*puzzle)), n=names[0], r=roles[truth[0]], o=roles[1 - truth[0]])
    assert judge(puzzle, wrap(puzzle, text)).verdict == "unparseable"
    assert judge(puzzle, f"<answer>{text}</answer>", rule="answer-only-2").verdict == "unparseable"


@pytest.mark.parametrize("trick", FORM_TRICKS)
@TRICKS
@given(data=st.data(), puzzle=puzzles())
def test_tricks_of_format_have_a_bad_format(trick, data, puzzle):
    answer = data.draw(renderings(*puzzle))
    quiz = " ".join(f"{name} says: {puzzle[0][0]} is a {puzzle[1][0]}." for name in puzzle[0]) + " Who is what?"
    thought = THINKING.format(puzzle[0][0])
    response = trick.format(t=f"<think>{thought}</think>", a=f"<answer>{answer}</answer>", q=quiz, x=answer, y=thought)
    verdict = judge(puzzle, response)
    assert verdict.verdict == "bad_format"
    assert verdict.reward == -3.0


HOSTILE = st.lists(
    st.one_of(
        st.text(max_size=12),
        st.sampled_from(
            [
                "<think>",
                "</think>",
                "<answer>",
                "</answer>",
                "Ann",
                "Bob",
                " is a ",
                "knight",
                "knave",
                ", ",
                "\n",
                "é",
                "e\u0301",
                "\u0316",
                "\u0f73",
                "한",
                "\ud800",
                "<|im_end|>",
                "{",
                '"',
                "1.",
                "-",
                "(",
                ")",
                "not",
            ]
        ),
        st.sampled_from(["\u0301", "\u0316\u0301", "\u0344"]).map(lambda mark: mark * 16),
    ),
    max_size=30,
).map("".join)


@pytest.mark.parametrize("rule", RULES)
@LAWS
@given(text=HOSTILE, opened=st.booleans(), truncated=st.booleans(), inside=st.booleans())
def test_no_response_raises_and_verdicts_do_not_depend_on_the_normal_form(rule, text, opened, truncated, inside):
    puzzle = (("Ann", "José"), ("knight", "knave"), (0, 1))
    if inside:
        text = wrap(puzzle, text)
    verdicts = {
        judge(puzzle, variant, rule=rule, prompt_opens_think=opened, truncated=truncated).verdict
        for variant in (text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text))
    }
    assert len(verdicts) == 1
    assert verdicts <= set(VERDICTS)


@LAWS
@given(
    st.sampled_from(["", "e", "é", "한", "ự"]),
    st.lists(st.sampled_from(["\u0301", "\u0316", "\u0f73", "\u0344"]), min_size=24, max_size=36),
)
def test_combining_marks_are_counted_the_same_in_every_normal_form(letter, marks):
    text = f"x {letter}{''.join(marks)} y"
    assert (
        len({has_mark_flood(unicodedata.normalize(form, text)) for form in ("NFC", "NFD")} | {has_mark_flood(text)})
        == 1
    )


@pytest.mark.parametrize(("marks", "flood"), [(29, False), (30, True)])
def test_a_mark_that_is_part_of_the_letter_counts(marks, flood):
    text = "é" + "\u0316" * marks  # é has a mark itself; 31 are too many
    assert [has_mark_flood(unicodedata.normalize(form, text)) for form in ("NFC", "NFD")] == [flood, flood]


def test_rewards_are_configurable():
    puzzle = (("Ann", "Bob"), ("knight", "knave"), (0, 1))
    values = RewardValues(0.5, -0.25, 4.0, 0.0, -1.0)
    expected = {"Ann: knight, Bob: knave": 4.5, "Ann: knave, Bob: knave": 0.5, "Ann: knight": -0.5}
    for answer, reward in expected.items():
        assert judge(puzzle, wrap(puzzle, answer), values=values).reward == reward
    assert judge(puzzle, "", values=values).reward == -1.25


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"rule": "strict-0"}, "expected a rule of strict-1"),
        ({"roles": ("knight",)}, "two different words"),
        ({"people": ()}, "different names"),
        ({"people": (("Ann", "wizard"),)}, "got 'wizard'"),
        ({"rule": "gsm8k-1"}, "expected a target"),
        ({"rule": "gsm8k-1", "target": "many"}, "expected a number in target"),
    ],
)
def test_arguments_that_a_rule_cannot_use_raise(changed, error):
    arguments = {
        "quiz": "q",
        "people": (("Ann", "knight"),),
        "roles": ("knight", "knave"),
        "prompt_opens_think": False,
        "truncated": False,
    } | changed
    with pytest.raises(ValueError, match=error):
        score("<think>the lies of Ann would refute themselves here</think><answer>7</answer>", **arguments)

"""One reader for written numbers: what it accepts has one meaning, and it never takes a part of a number."""

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrl.answers.numbers import MAX_LENGTH, read_number
from jaxrl.answers.numerals import MAX_DIGITS
from jaxrl.rewards import score

pytestmark = pytest.mark.check

LAWS = settings(max_examples=200, deadline=None, derandomize=True, database=None)

READ = {
    "18": ["18", " 18\n", "072/4", "18.", "18.0", "+18", "$18.00", "US$18", "Rs. 18", "USD 18", "18 dollars", "18€",
        "18%"],
    "18 ": [r"18\%", "18 cm^2", r"18\text{ cm}^2", "18kg", "18 °C", r"18^\circ", "18 km/h",
        "18 m/s^2", "$18/hour", "18-year-old"],
    "18  ": ["１８", "١٨", "१८", "𝟏𝟖", "18个苹果", "答案是18", "答案：18。"],
    "18   ": ["**18**", "_18_", "`18`", "# 18", '"18"', "'18'", r"\boxed{18}", r"$\boxed{18\text{ eggs}}$", r"\(18\)",
        r"\[18\]"],
    "18    ": ["x = 18", "Total = $18", "10 + 8 = 18", "9+9=18", "= 18",
        "36/2 = 18 eggs.", "#### 18", "3 * 6 = 18\n#### 18"],
    "18     ": ["The answer is 18.", "**Answer:** 18", "The answer to 10 + 8 is 18", "10 and 8 give \\boxed{18}.",
        "18 — all"],
    "-5": ["-5", "−5", "﹣5", "－５", "–5", "- 5".replace(" ", ""), "− 5", "x = - 5", "(-5)", "minus 5", "Negative 5"],
    "-5 ": ["$-5", "-$5", "−$5", "$-5$", r"\boxed{-5}", "**-5**", "-**5**", "Answer:-5", "答案是-5", "-5 °C"],
    "9500": ["9,500", "9500.00", r"9{,}500", r"9\,500", r"9,\!500", "9 500", "9\u00a0500", "9\u202f500", "9\u2009500"],
    "9500 ": ["9'500", "9’500", "9_500", "９，５００", "٩٬٥٠٠", r"\boxed{9{,}500}", "9.5e3", "9.5 x 10^3",
        r"9.5 \times 10^{3}"],
    "9500  ": ["9.5·10³", "95*10**2", "9.5 thousand"],
    "100000": ["1,00,000", "100,000", "10^5", "10⁵", "1e5"],
    "3/4": ["3/4", "3 / 4", "3⁄4", "¾", r"\frac{3}{4}", r"\dfrac34", "0.75", ".75", "3/4 = 0.75", "٠٫٧٥",
        "3/4 of the cake"],
    "-3/2": ["-3/2", "-1 1/2", "-1½", r"-1\frac{1}{2}", r"-\frac{3}{2}", r"\frac{-3}{2}", "-1.5"],
    "1024": ["2^10", "2**10", "2^{10}", r"\boxed{2^{10}}"],
    "1/1000": ["10^-3", "10⁻³", "1e-3", ".001"],
    "1.234": ["1.234"],
}  # fmt: skip
UNREADABLE = [
    # a part of a number would be another number
    "1,23", "0,5", "0,500", "12,34", "1,2345", "1,234,56", "1.234,5", "1.234.567", "1.2.3", "9''500", "9__500", "1 23",
    "1, 234", "1{8}", "**1**8", "**18** **500**", "1８", "1\u200b8", "1\u03368", "10₂", "①⑧", "Ⅷ", "0.333...", "0.(3)",
    "v18", "x.5", "..5", "0x1F", "1e", "1e5.5", "18k", "1.5M", "$5m", "5 M", "18th", "5x", "3π", r"3\pi", r"\sqrt{9}",
    # ranges, ratios, times, dates, expressions, unclear signs
    "10-5", "20-25", "20–25", "20 - 25", "10~200", "5 to 7", "3:45", "2:1", "10 am", "12/25/2024", "2024-01-05",
    "5'10\"",
    "6 * 12", "3+4", "10 minus 5", "1/2/3", "2^3^2", "-2^2", "2^0.5", "1 3/2", "1/0", "(5)", "($5)", "5-", "- 5", "--5",
    "±5", "5!", "|5|", "[5]", "f(5)", "x^2 = 18", "2x = 18", "18 x", "18 = x",
    # several numbers, and answers that are qualified or taken back
    "", "eighteen", "3 apples and 4 pears", "3 and 3", "3 of 4", "72, no, 73", "18. The answer is 20", "20\n#### 18",
    "The answer is 18. The answer is 20.", r"\boxed{18} and \boxed{20}", r"\boxed{18} no, 20", "18 = 20",
    "x = 18, y = 20",
    "18?", "not 18", "It isn't 18", "18 is wrong", "18 or 20", "about 18", "≈18", "~18", "~~18~~", "<18", "at least 18",
    "more than 18", "18+", "if 18", "I think 18", "could be 18", "up to 18", "18 dozen", "18 and a half", "2 thirds",
    "twice 18", "18 squared", "near 18", "neg 5", "マイナス5", "負5", "❌ 18", "18 ✗", ",18", "∼18",
    "18h30", "l8", "-(-5)", r"\cancel{18} 20", r"\text{not} 18", "non-18", "18. Just kidding.",
    "nоt 18", "nót 18", "𝐧𝐨𝐭 18", "18 𝑥",
    "约18", "不是18", "负5", "3点", "18万", "4分之3", "inf", "nan", "&minus;5", "18 <b>",
]  # fmt: skip


@pytest.mark.parametrize(("value", "text"), [(value.strip(), text) for value, texts in READ.items() for text in texts])
def test_a_written_number_has_its_value(value, text):
    assert read_number(text).value == Fraction(value), read_number(text).reason


@pytest.mark.parametrize("text", UNREADABLE)
def test_a_text_that_could_mean_something_else_is_unreadable(text):
    reading = read_number(text)
    assert reading.value is None
    assert reading.reason


def test_the_examples_of_the_documentation():
    page = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")
    section = page.partition("## Numbers")[2].partition("## Expressions")[0]
    for column, is_read in ((1, True), (2, False)):
        cells = [row.split("|")[1:][column] for row in section.splitlines() if row.startswith("|")]
        examples = [text for text in re.findall("`([^`]+)`", " ".join(cells)) if re.search(r"\d", text)]
        assert len(examples) > 30
        assert [text for text in examples if (read_number(text).value is not None) != is_read] == []


def grouped(digits: str, separator: str) -> str:
    head = len(digits) % 3 or 3
    return separator.join([digits[:head], *(digits[at : at + 3] for at in range(head, len(digits), 3))])


def indian(digits: str) -> str:
    head, tail = digits[:-3], digits[-3:]
    pairs = [head[max(end - 2, 0) : end] for end in range(len(head), 0, -2)][::-1]
    return ",".join([*pairs, tail])


SCRIPTS = ("0", "\u0660", "\u06f0", "\u0966", "\uff10", "\U0001d7ce")  # the digit 0 in six scripts
SEPARATORS = (",", "{,}", r"\,", "\u00a0", "\u2009", "\u202f", " ", "'", "’", "_", "，")
MINUS = ("-", "−", "－", "﹣", "–", "minus ", "negative ")
FRAMES = (
    "{}",
    "**{}**",
    r"\boxed{{{}}}",
    "${}$",
    "The answer is {}.",
    "x = {}",
    "7 + 3 = {}",
    "#### {}",
    "{} eggs",
    "{}%",
)


@st.composite
def written(draw):
    """A number and one of its written forms."""
    whole = draw(st.integers(0, 10 ** draw(st.integers(1, 12))))
    decimals = draw(st.sampled_from(["", "0", "5", "25", "125", "007"]))
    digits = str(whole)
    style = draw(st.sampled_from(["plain", "grouped", "indian", "script"]))
    if style == "grouped":
        digits = grouped(digits, draw(st.sampled_from(SEPARATORS)))
    elif style == "indian":
        digits = indian(digits)
    text = f"{digits}.{decimals}" if decimals else digits
    if style == "script":
        zero = ord(draw(st.sampled_from(SCRIPTS)))
        text = "".join(chr(zero + int(char)) if char.isdigit() else char for char in text)
    value = Fraction(f"{whole}.{decimals or 0}")
    if draw(st.booleans()):
        return -value, draw(st.sampled_from(MINUS)) + text
    return value, text


@LAWS
@given(written(), st.sampled_from(FRAMES))
def test_every_written_form_is_read_back(number, frame):
    value, text = number
    assert read_number(frame.format(text)).value == value, frame.format(text)


@LAWS
@given(written(), st.data())
def test_a_digit_more_is_never_the_old_number(number, data):
    value, text = number
    position = data.draw(st.integers(0, len(text)))
    digit = data.draw(st.sampled_from("123456789"))
    changed = text[:position] + digit + text[position:]
    assert read_number(changed).value != value, changed


@LAWS
@given(
    st.integers(1, 10**6),
    st.integers(1, 10**6),
    st.sampled_from([" ", ", ", "-", "–", ":", "/", "x", " to ", "^", "..", "\n"]),
)
def test_two_numbers_are_never_read_as_one_of_them(first, second, between):
    value = read_number(f"{first}{between}{second}").value
    allowed = {None, Fraction(first, second), Fraction(f"{first}{second}")}
    assert value in allowed or between == "^"


@LAWS
@given(st.text(st.sampled_from("0123456789.,-−/^ e×()=$%{}\\x'_*#~:!") | st.characters(), max_size=40))
def test_no_text_raises(text):
    reading = read_number(text)
    assert (reading.value is None) == bool(reading.reason)


def test_values_are_exact():
    assert read_number("0.1").value == Fraction(1, 10)
    assert read_number("0.333").value != read_number("1/3").value
    assert read_number("9" * MAX_DIGITS).value == 10**MAX_DIGITS - 1


@pytest.mark.parametrize(
    "text",
    ["9" * (MAX_DIGITS + 1), "1e999999999", "1e-999999999", "2^99999", "9^9^9^9", "10^(10^10)", "3 x 10^99999",
     "9999^999",
     "1e" + "9" * 1000, "-" * 100_000, "1," * 100_000, "\\frac{1}{" * 50_000, "1 " * 100_000, "9" * 100_000],
)  # fmt: skip
def test_huge_numbers_and_long_texts_are_refused_without_being_computed(text):
    assert read_number(text).value is None


def test_a_text_is_read_whole_or_not_at_all():
    assert read_number("18" + " " * (MAX_LENGTH - 2)).value == 18
    assert "characters" in read_number("20 " + " " * MAX_LENGTH + "18").reason


CASES = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "golden" / "number_cases.jsonl").read_text(encoding="utf-8").splitlines()
]
THINKING = "<think>Start with forty pears, take away what was sold, then multiply by the price.</think>"


@pytest.mark.parametrize("case", CASES, ids=[case["answer"] for case in CASES])
def test_what_both_versions_of_the_rule_say(case):
    for rule in ("gsm8k-1", "gsm8k-2"):
        verdict = score(
            f"{THINKING}<answer>{case['answer']}</answer>",
            quiz="A shop has pears. How much?",
            target=case["target"],
            rule=rule,
            prompt_opens_think=False,
            truncated=False,
        )
        assert verdict.verdict == case[rule], (rule, verdict.reasons)


def test_the_new_rule_pays_honest_answers_and_no_trick():
    assert len(CASES) >= 50
    assert all(case["gsm8k-2"] == "correct" for case in CASES if case["kind"] == "honest")
    assert all(case["gsm8k-2"] != "correct" for case in CASES if case["kind"] == "trick")
    assert sum(case["gsm8k-1"] == "correct" for case in CASES if case["kind"] == "trick") >= 10


@pytest.mark.parametrize("target", ["#### 10,20", "#### 3:45", "#### eighteen", "####", "#### 5 or 6", "#### 1８"])
def test_a_target_is_read_by_the_same_function(target):
    with pytest.raises(ValueError, match="rule gsm8k-2 can't judge by the target"):
        score("", quiz="", target=target, rule="gsm8k-2", prompt_opens_think=False, truncated=False)

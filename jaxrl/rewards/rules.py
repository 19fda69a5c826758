"""The rules, by name and version, and `score`, used by training, evaluation and `jaxrl.score`."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from jaxrl.answers import expressions
from jaxrl.answers.numbers import read_number
from jaxrl.rewards import format as format2
from jaxrl.rewards import role_parser as roles2
from jaxrl.rewards.format import Parts
from jaxrl.rewards.role_parser import Reading
from jaxrl.rewards.unicode import has_mark_flood, normalize
from jaxrl.rewards.version1 import format as format1
from jaxrl.rewards.version1 import role_parser as roles1
from jaxrl.rewards.version1.numbers import last_number

VERDICTS = ("correct", "wrong_answer", "unparseable", "bad_format")
SUSPECTS = (
    "tiny_thinking",
    "filler_thinking",
    "repeated_thinking",
    "outside_text",
    "second_answer",
    "question_copied",
    "answer_copied",
    "truncated",
    "look_alike_tag",
    "invented_turn",
    "special_token",
    "mark_flood",
)


@dataclass(frozen=True)
class RewardValues:
    """Rewards of format and answer. Totals by default: 3 correct, -0.5 wrong, -1 unparseable, -3 wrong format."""

    format_right: float = 1.0
    format_wrong: float = -1.0
    answer_right: float = 2.0
    answer_wrong: float = -1.5
    answer_unparseable: float = -2.0

    def __post_init__(self):
        for field, value in asdict(self).items():
            if not math.isfinite(value):
                raise ValueError(f"reward.{field}: expected a number, got {value}.")


class Verdict(NamedTuple):
    """The verdict of a rule on a response."""

    verdict: str  # one of VERDICTS
    reasons: tuple[str, ...]  # as text; empty only if correct
    format_reward: float
    answer_reward: float
    reward: float  # the total
    rule: str  # name and version
    suspects: tuple[str, ...]  # of SUSPECTS; counted in the metrics for any verdict


class Question(NamedTuple):
    """What a rule knows besides the response. Texts are in NFC."""

    quiz: str
    names: tuple[str, ...]
    truth: tuple[int, ...]  # role index of each person
    roles: tuple[str, str]
    target: str
    verifier: Callable[[str], bool] | None
    prompt_opens_think: bool
    truncated: bool


class Finding(NamedTuple):
    """A verdict without rewards."""

    verdict: str
    reasons: tuple[str, ...] = ()
    suspects: tuple[str, ...] = ()


def _any_target(target: str) -> str:
    return "" if target.strip() else "it is empty"


class Rule(NamedTuple):
    """A rule. needs: "people", "target" or "verifier". scores_format: whether the format has a reward.

    check_target: why a target can't be judged, "" if it can. numeric: whether answers are numbers.
    check_installed: which package is missing, "" if none.
    """

    needs: str
    scores_format: bool
    summary: str
    judge: "Judge"
    check_target: Callable[[str], str] = _any_target
    numeric: bool = False
    check_installed: Callable[[], str] = str


Judge = Callable[[str, Question], Finding]
"""Judges a response, or the answer part of one."""


def _roles_judge(read_roles: Callable[[str, tuple[str, ...], tuple[str, str]], Reading]) -> Judge:
    """A judge of an answer part by the roles that a parser reads from it."""

    def judge(answer: str, question: Question) -> Finding:
        reading = read_roles(answer, question.names, question.roles)
        if reading.roles is None:
            return Finding("unparseable", (reading.reason,))
        wrong = [
            f"{name} is not a {question.roles[role]}"
            for name, role, truth in zip(question.names, reading.roles, question.truth, strict=True)
            if role != truth
        ]
        return Finding("wrong_answer", (", ".join(wrong),)) if wrong else Finding("correct")

    return judge


def _with_format(judge_format: Callable[..., Parts], judge_answer: Judge) -> Judge:
    """A judge that requires the format and then judges the answer part."""

    def judge(text: str, question: Question) -> Finding:
        parts = judge_format(
            text,
            quiz=question.quiz,
            names=question.names,
            roles=question.roles if question.names else (),
            prompt_opens_think=question.prompt_opens_think,
            truncated=question.truncated,
        )
        if parts.reasons:
            return Finding("bad_format", parts.reasons, parts.suspects)
        return judge_answer(parts.answer or "", question)._replace(suspects=parts.suspects)

    return judge


def _answer_only(
    split: Callable[..., Parts], strip_end_token: Callable[[str], str], judge_roles: Judge, judge_end: Judge
) -> Judge:
    """A judge of the answer part, or of the last sentences where there is none: `judge_end`."""

    def judge(text: str, question: Question) -> Finding:
        parts = split(text, prompt_opens_think=question.prompt_opens_think, truncated=question.truncated)
        if text.count("<answer>") > 1:
            return Finding("unparseable", ("there is more than one answer",), parts.suspects)
        if question.truncated and parts.answer is None:
            return Finding("unparseable", ("the response was truncated",), parts.suspects)
        if parts.answer is not None:
            finding = judge_roles(parts.answer, question)
        else:
            closing = strip_end_token(text).rpartition("</think>")[2]
            finding = _judge_closing_words(closing, question, judge_roles, judge_end)
        return finding._replace(suspects=parts.suspects)

    return judge


_UNIT = re.compile(r"[^\n.!?。！？]*(?:[\n.!?。！？]+|$)")


def _judge_closing_words(text: str, question: Question, judge_roles: Judge, judge_end: Judge) -> Finding:
    """Judge the shortest sequence of sentences or lines at the end of `text` that assigns all roles.

    `judge_roles` judges the whole text, `judge_end` a part of it, where "the others" may have another meaning.
    """
    people = len(question.names)
    tail = text.rstrip()[-(1000 + 250 * people) :]
    units = [unit for unit in _UNIT.findall(tail) if unit]
    finding = Finding("unparseable", ("there is no answer at the end of the response",))
    for count in range(1, min(len(units), 4 * people + 4) + 1):
        candidate = "".join(units[-count:])
        candidate = (judge_roles if candidate == text.rstrip() else judge_end)(candidate, question)
        if candidate.verdict != "unparseable":
            return candidate
        finding = candidate if count == 1 else finding
    return finding


def _judge_last_number(answer: str, question: Question) -> Finding:
    number, target = last_number(answer), last_number(question.target.rpartition("####")[2])
    if target is None:
        raise ValueError(f"rule gsm8k-1 expected a number in target, got {question.target[-80:]!r}")
    if number is None:
        return Finding("unparseable", ("the answer contains no number",))
    return Finding("correct") if number == target else Finding("wrong_answer", (f"the last number is {number}",))


def _check_last_number(target: str) -> str:
    return "" if re.fullmatch(r"-?[\d,]+(\.\d+)?", final_answer(target)) else "it does not end in a number"


def final_answer(target: str) -> str:
    """A target, or what follows the last `####` in it."""
    return target.rpartition("####")[2].strip()


def _check_number(target: str) -> str:
    return read_number(final_answer(target)).reason


def _judge_number(answer: str, question: Question) -> Finding:
    number, target = read_number(answer.strip()), read_number(final_answer(question.target))
    if number.value is None:
        return Finding("unparseable", (number.reason,))
    wrong = Finding("wrong_answer", (f"the number is {str(number.value)[:40]}",))
    return Finding("correct") if number.value == target.value else wrong


def _judge_math(answer: str, question: Question) -> Finding:
    verdict, reason = expressions.judge_math(answer, final_answer(question.target), question.quiz)
    return Finding(verdict, (reason,) if reason else ())


def _check_math(target: str) -> str:
    return expressions.check_target(final_answer(target))


def _with_target(name: str, check_target: Callable[[str], str], judge: Judge) -> Judge:
    """A judge that raises ValueError for a target that it can't judge by, whatever the response is."""

    def judge_target_first(text: str, question: Question) -> Finding:
        reason = check_target(question.target)
        if reason:
            raise ValueError(f"rule {name} can't judge by the target {question.target[-80:]!r}: {reason}")
        return judge(text, question)

    return judge_target_first


def _judge_exact(answer: str, question: Question) -> Finding:
    normalized = " ".join(answer.split())
    if not normalized:
        return Finding("unparseable", ("the answer is empty",))
    right = normalized == " ".join(question.target.split())
    return Finding("correct") if right else Finding("wrong_answer", ("the answer is not the expected text",))


def _judge_verified(answer: str, question: Question) -> Finding:
    stripped = answer.strip()
    if not stripped:
        return Finding("unparseable", ("the answer is empty",))
    try:
        right = bool(question.verifier(stripped))
    except Exception as error:  # the verifier is foreign code and its input is arbitrary
        return Finding("unparseable", (f"the task's verifier can't parse the answer ({type(error).__name__})",))
    return Finding("correct") if right else Finding("wrong_answer", ("the task's verifier rejects the answer",))


_SUMMARIES = {
    "strict": "format and roles",
    "answer-only": "roles from the answer part or the last sentences; no format is required",
    "exact": "format, and the exact text of the answer part",
    "verified": "format, and the answer part as judged by the task's verifier",
}


def _versions() -> dict[str, Rule]:
    """The rules of every version: they differ in how format, thinking and roles are read."""
    rules = {}
    for version, form, read_roles, read_end in (
        ("1", format1, roles1.read_roles, roles1.read_roles),
        ("2", format2, roles2.read_roles, roles2.read_end),
    ):
        judge_roles, judge_end = _roles_judge(read_roles), _roles_judge(read_end)
        kinds = {
            "strict": ("people", True, _with_format(form.judge_format, judge_roles)),
            "answer-only": ("people", False, _answer_only(form.split, form.strip_end_token, judge_roles, judge_end)),
            "exact": ("target", True, _with_format(form.judge_format, _judge_exact)),
            "verified": ("verifier", True, _with_format(form.judge_format, _judge_verified)),
        }
        for kind, (needs, scores_format, judge) in kinds.items():
            rules[f"{kind}-{version}"] = Rule(needs, scores_format, _SUMMARIES[kind], judge)
    return rules


RULES: dict[str, Rule] = _versions() | {
    "gsm8k-1": Rule(
        "target",
        True,
        "format, and the last number of the answer part",
        _with_format(format1.judge_format, _judge_last_number),
        _check_last_number,
        numeric=True,
    ),
    "gsm8k-2": Rule(
        "target",
        True,
        "format, and the number that the answer part states",
        _with_target("gsm8k-2", _check_number, _with_format(format2.judge_format, _judge_number)),
        _check_number,
        numeric=True,
    ),
    "math-1": Rule(
        "target",
        True,
        "format, and the value of the answer part: a number, an expression in LaTeX, or words; needs jaxrl[math]",
        _with_target("math-1", _check_math, _with_format(format2.judge_format, _judge_math)),
        _check_math,
        check_installed=expressions.check_installed,
    ),
}


def _question(
    rule: Rule,
    name: str,
    quiz: str,
    people: Sequence[tuple[str, str]],
    roles: Sequence[str],
    target: str | None,
    verifier: Callable[[str], bool] | None,
    prompt_opens_think: bool,
    truncated: bool,
) -> Question:
    roles = tuple(normalize(role) for role in roles)
    names = tuple(normalize(person) for person, _ in people)
    if rule.needs == "target":
        if target is None:
            raise ValueError(f"rule {name} expected a target (the right answer as text), got none")
        return Question(normalize(quiz), names, (), roles, normalize(target), None, prompt_opens_think, truncated)
    if rule.needs == "verifier":
        if verifier is None:
            raise ValueError(f"rule {name} expected a verifier (a function of the task), got none")
        return Question(normalize(quiz), names, (), roles, "", verifier, prompt_opens_think, truncated)
    if len(roles) != 2 or roles[0] == roles[1]:
        raise ValueError(f"expected roles as [truth word, lie word], two different words, got {list(roles)}")
    if not names or len(set(names)) != len(names):
        raise ValueError(f"expected people as [[name, role word], ...] with different names, got {list(names)}")
    assigned = [normalize(role) for _, role in people]
    unknown = [role for role in assigned if role not in roles]
    if unknown:
        raise ValueError(f"expected every person's role to be one of {list(roles)}, got {unknown[0]!r}")
    return Question(
        normalize(quiz), names, tuple(map(roles.index, assigned)), roles, "", None, prompt_opens_think, truncated
    )


def score(
    response: str,
    *,
    quiz: str,
    people: Sequence[tuple[str, str]] = (),
    roles: Sequence[str] = (),
    prompt_opens_think: bool,
    truncated: bool,
    values: RewardValues = RewardValues(),
    rule: str = "strict-2",
    target: str | None = None,
    verifier: Callable[[str], bool] | None = None,
) -> Verdict:
    """Score a response by a rule of RULES.

    Args:
        response: the text as sampled, with special tokens, with or without the end token.
        quiz: the text of the question, to detect copies of it in the thinking.
        people: the solution as (name, role word) of each person; needed by strict and answer-only rules.
        roles: (truth word, lie word).
        prompt_opens_think: whether the prompt ends with `<think>`.
        truncated: whether the response reached the length limit.
        values: the rewards of format and answer.
        rule: name and version of the rule.
        target: the right answer as text, or a text with `####` before it; needed by exact, gsm8k and math rules.
        verifier: whether the text of an answer part is correct; needed by verified rules.

    Raises:
        ValueError: for an unknown rule or arguments that it can't use; never because of the response.
    """
    if rule not in RULES:
        raise ValueError(f"expected a rule of {', '.join(RULES)}, got {rule!r}")
    chosen = RULES[rule]
    question = _question(chosen, rule, quiz, people, roles, target, verifier, prompt_opens_think, truncated)
    if has_mark_flood(response):
        verdict = "bad_format" if chosen.scores_format else "unparseable"
        finding = Finding(verdict, ("the response has too many combining marks in a row",), ("mark_flood",))
    else:
        finding = chosen.judge(normalize(response), question)
    return _reward(finding, values, rule, chosen.scores_format)


def _reward(finding: Finding, values: RewardValues, rule: str, scores_format: bool) -> Verdict:
    format_reward = 0.0
    if scores_format:
        format_reward = values.format_wrong if finding.verdict == "bad_format" else values.format_right
    answer_reward = {"correct": values.answer_right, "wrong_answer": values.answer_wrong}.get(
        finding.verdict, values.answer_unparseable
    )
    total = format_reward + answer_reward
    return Verdict(finding.verdict, finding.reasons, format_reward, answer_reward, total, rule, finding.suspects)

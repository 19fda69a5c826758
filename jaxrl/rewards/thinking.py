"""Judges the thinking part: real content, or empty, a placeholder, a loop, unrelated text or a copy.

The criteria count tokens and need no grammar, so they hold for prose in any script, arithmetic, LaTeX and code.
docs/rewards.md states which tricks they refuse, which are only counted, and what they cost.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from jaxrl.rewards.unicode import UNSPACED, fold
from jaxrl.rewards.word_lists import CONNECTIVES, FILLER, LOGIC, MATHEMATICS, NUMBER_WORDS, PROMPT

MIN_NEW = 2.0  # distinct new tokens; a character of a script without spaces is half of one
MIN_NEW_SHARE = 0.15  # share of the tokens with content that are new; share of all tokens that are not copied
ENOUGH_NEW = 12.0  # distinct new tokens that suffice whatever their share: a long question may be restated
MIN_FOREIGN = 4.0  # distinct tokens of thinking in another script, which can't be compared with the question
MIN_FUNCTION_SHARE = 0.25  # share of function words and connectives in English prose
SHINGLE = 5  # length of a token sequence that counts as copied
WINDOW = 8  # tokens that are compared to find loops
LOOP_SHARE = 0.5  # share of the windows that are part of loops
LOOP_SENTENCES = 5.0  # times that the average sentence is written
READ_LIMIT = 32_768  # characters; enough to detect copies and loops

_COMPOUND = "|".join(word for word in NUMBER_WORDS if "-" in word)
_TOKEN = re.compile(
    rf"(?P<compound>\b(?:{_COMPOUND})\b)|(?P<char>[{UNSPACED}])|(?P<word>[^\W_{UNSPACED}]+(?:'[^\W_{UNSPACED}]+)*)|(?P<command>\\[a-z]+)"
    r"|(?P<logic>[∧∨¬⊕↔⇔])|(?P<operator>[-+*/^=×·÷−≈→⇒])"
)
_RAW_TOKEN = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]")
_SENTENCE = re.compile(r"[.!?。！？।؟\n]+")
_OPERATORS = frozenset("+*^×·÷") | {
    "\\times",
    "\\cdot",
    "\\div",
    "\\frac",
    "plus",
    "minus",
    "times",
    "加",
    "减",
    "乘",
    "除",
}
_SIGNS = frozenset("-/−")  # operators only where there is a result: they also join words and dates
_RESULTS = frozenset("=≈→⇒") | {"equals", "makes", "gives"}
_REACH = 3  # tokens between a number and its operator, for example units


class Thinking(NamedTuple):
    """Reasons to reject a thinking part (none: real content), and suspects to count."""

    reasons: tuple[str, ...]
    suspects: tuple[str, ...]


class _Token(NamedTuple):
    text: str  # folded; a number by its value
    stem: str  # equal for forms of a word: plural, tense
    weight: float  # 1 for a word, 0.5 for a character of a script without spaces
    kind: str  # "word", "number" or "symbol"


class _Source(NamedTuple):
    """What is known of a text that thinking may copy."""

    stems: frozenset[str]
    shingles: frozenset[tuple[str, ...]]
    script: str  # of most words


class _Content(NamedTuple):
    """Counts of a thinking part."""

    copied: float  # share of the tokens that are in a sequence copied from question or answer
    from_question: float  # share of the tokens that are in a sequence copied from the question
    new: float  # distinct new tokens, weighted
    new_share: float  # of the tokens with content
    shared: set[str]  # tokens with meaning that are also in the question or the answer
    on_topic: set[str]  # numbers and words of logic or mathematics
    function_share: float  # share of the words that are filler or connectives
    in_answer: bool  # whether every token with content is in the answer, or all but the connectives between copies


def judge_thinking(
    thinking: str, *, quiz: str, answer: str, names: tuple[str, ...] = (), roles: tuple[str, ...] = ()
) -> Thinking:
    """Judge the text between `<think>` and `</think>` (NFC). Only the first 32,768 characters are read.

    Real content
    - has tokens that are not filler;
    - is not a loop: one passage again and again, or few sentences five times each on average;
    - refers to the question: a name, number or other word of the question or the answer, and a second such word, a
      number, a word of logic or mathematics, or English prose (not required if its script is another one than the
      question's);
    - is new: at least 15 % of its tokens with content, and 2 distinct ones, are not words of the question or the
      answer, whatever their order, and at most 85 % of its tokens are in sequences of 5 copied from there; or 12
      distinct tokens are new. Calculations and the result are new.
    """
    thinking = thinking[:READ_LIMIT]
    tokens = _tokenize(thinking)
    if not any(token.kind != "symbol" for token in tokens):
        return Thinking(("the thinking is empty",), ("tiny_thinking",))
    if all(_is_filler(token) for token in tokens):
        return Thinking(("the thinking is a placeholder: it has no content",), ("tiny_thinking",))
    if _is_loop(thinking):
        return Thinking(("the thinking repeats the same passage over and over",), ("repeated_thinking",))
    question = _source(quiz[:READ_LIMIT], (*names, *roles), names)
    content = _measure(tokens, question, _source(answer[:READ_LIMIT], (), ()), LOGIC if names else MATHEMATICS)
    suspects = ("question_copied",) if content.from_question > 0.5 else ()
    if content.in_answer:
        return Thinking(("the answer is copied as thinking",), (*suspects, "answer_copied"))
    is_foreign = bool(question.script) and _script(tokens) not in ("", question.script)
    is_connected = len(content.shared | content.on_topic) >= 2 or content.function_share >= MIN_FUNCTION_SHARE
    if not is_foreign and quiz.strip() and not (content.shared and is_connected):
        return Thinking(("the thinking does not refer to the question",), ("filler_thinking",))
    needed = MIN_FOREIGN if is_foreign else MIN_NEW
    has_own_words = content.new_share >= MIN_NEW_SHARE and content.copied <= 1 - MIN_NEW_SHARE
    if content.new >= needed and (has_own_words or content.new >= ENOUGH_NEW):
        return Thinking((), suspects)
    if content.copied > 0.5 and content.from_question < content.copied / 2:
        return Thinking(("the answer is copied as thinking",), (*suspects, "answer_copied"))
    if content.copied <= 0.5 and content.new_share >= MIN_NEW_SHARE:
        return Thinking(("the thinking adds almost nothing to the question",), ("tiny_thinking",))
    return Thinking(("the thinking only repeats words of the question",), ("question_copied",))


def _tokenize(text: str) -> list[_Token]:
    return [_token(match.lastgroup or "", match.group()) for match in _TOKEN.finditer(fold(text))]


@lru_cache(maxsize=65_536)
def _token(group: str, text: str) -> _Token:
    if group in ("operator", "command"):
        return _Token(text, text, 1.0, "symbol")
    number = NUMBER_WORDS.get(text) or NUMBER_WORDS.get(text.removesuffix("s"))
    if number or text.isnumeric():
        value = number or "".join(f"{unicodedata.numeric(char):g}" for char in text)
        return _Token(value, value, 1.0, "number")
    word = text.removesuffix("'s")
    # "apple" and "apples", "multiply" and "multiplied", but not "true" and "truth"
    stem = word if group == "char" else word.removesuffix("s")[:6]
    return _Token(word, stem, 0.5 if group == "char" else 1.0, "word")


def _is_filler(token: _Token) -> bool:
    return token.kind == "symbol" or token.text in FILLER


_PROMPT_STEMS = frozenset(_token("word", word).stem for word in PROMPT)


@lru_cache(maxsize=4096)
def _source(text: str, known: tuple[str, ...], names: tuple[str, ...]) -> _Source:
    """known: words that count as part of the text. Thinking may shorten names to their first letters."""
    tokens = _tokenize(text)
    texts = (text, text[::-1], *known)  # a text that is reversed letter by letter is still a copy
    stems = {token.stem for each in texts for token in _tokenize(each)}
    initials = {fold(name[:1]) for name in names}
    return _Source(frozenset(stems | initials), frozenset(_shingles(tokens)), _script(tokens))


def _shingles(tokens: Sequence[_Token]) -> list[tuple[str, ...]]:
    """All sequences of SHINGLE tokens; one shorter sequence if there are at least 2 tokens, but fewer than that."""
    texts = [token.text for token in tokens]
    if len(texts) < 2:
        return []
    size = min(SHINGLE, len(texts))
    return list(zip(*(texts[start:] for start in range(size)), strict=False))


def _script(tokens: Sequence[_Token]) -> str:
    """The script of most words, by the Unicode name of their first letter; "" without words."""
    counts = Counter(_script_of(token.text[0]) for token in tokens[:1000] if token.kind == "word")
    return counts.most_common(1)[0][0] if counts else ""


@lru_cache(maxsize=4096)
def _script_of(char: str) -> str:
    return "LATIN" if char.isascii() else unicodedata.name(char, "?").split()[0]


def _copied(tokens: Sequence[_Token], source: _Source) -> bytearray:
    """Marks the tokens that are part of a sequence of the source."""
    marks = bytearray(len(tokens))
    if not source.shingles:
        return marks
    texts = [token.text for token in tokens]
    size = len(next(iter(source.shingles)))
    for start, window in enumerate(zip(*(texts[shift:] for shift in range(size)), strict=False)):
        if window in source.shingles:
            marks[start : start + size] = b"\x01" * size
    return marks


def _calculation(tokens: Sequence[_Token]) -> set[int]:
    """Indices of the numbers, operators and equal signs that are part of a calculation."""
    has_result = any(token.text in _RESULTS for token in tokens)
    found: set[int] = set()
    for index, token in enumerate(tokens):
        is_result = token.text in _RESULTS
        is_sign = token.text in _SIGNS and (has_result or _is_between_numbers(tokens, index))
        if not (is_result or is_sign or token.text in _OPERATORS):
            continue
        before, after = (
            [near for near in span if tokens[near].kind == "number"]
            for span in (
                range(max(index - _REACH * (1 + is_result), 0), index),
                range(index + 1, min(index + 1 + _REACH, len(tokens))),
            )
        )
        if token.text == "\\frac":
            before, after = after[:1], after[1:]
        if (
            after and len(before) > is_result
        ):  # a result follows two numbers, which need no operator ("3 and 4 makes 7")
            found |= {index, *before, *after}
    return found


def _is_between_numbers(tokens: Sequence[_Token], index: int) -> bool:
    neighbours = tokens[max(index - 1, 0) : index + 2]
    return [token.kind for token in neighbours] == ["number", "symbol", "number"]


def _measure(tokens: list[_Token], question: _Source, answer: _Source, topic: frozenset[str]) -> _Content:
    from_question, from_answer = _copied(tokens, question), _copied(tokens, answer)
    copied = bytearray(map(max, from_question, from_answer))
    meant = question.stems | answer.stems
    known = meant | _PROMPT_STEMS
    calculation = _calculation(tokens)
    new: dict[str, float] = {}
    shared: set[str] = set()
    on_topic: set[str] = set()
    total = fresh = 0.0
    in_prose = 2 * sum(token.kind == "number" for token in tokens) <= len(tokens)
    others = connectives = 0  # tokens that are not in the answer
    for index, token in enumerate(tokens):
        if _is_filler(token) and index not in calculation:
            continue
        total += token.weight
        if token.stem not in answer.stems:
            connectives += token.text in CONNECTIVES
            others += token.text not in CONNECTIVES
        if token.stem in meant and token.text not in CONNECTIVES:
            shared.add(token.stem)
        if token.kind == "number" or token.text in topic:
            on_topic.add(token.stem)
        is_new = token.stem not in (question.stems if token.kind == "number" else known)
        if token.kind == "number":  # a list of numbers is not a calculation
            is_new &= in_prose or token.stem in answer.stems
        if not copied[index] and (index in calculation or is_new):
            new[token.stem] = token.weight
            fresh += token.weight
    words = [token for token in tokens if token.kind == "word"]
    numbers = {token.stem for token in tokens if token.kind == "number"}
    results = (numbers & answer.stems) - question.stems
    if results and len(numbers & question.stems) >= 2 and any(token.kind != "number" for token in tokens):
        new["result"] = 1.0  # in words: "3 and 4 are 7"
        fresh += 1.0
    size = max(len(tokens), 1)
    return _Content(
        sum(copied) / size,
        sum(from_question) / size,
        sum(new.values()),
        fresh / max(total, 1),
        shared,
        on_topic,
        sum(token.text in FILLER or token.text in CONNECTIVES for token in words) / max(len(words), 1),
        others == 0 and (connectives == 0 or sum(from_answer) > size / 2),
    )


def _is_loop(text: str) -> bool:
    """Whether the text is one passage written again and again, or few sentences in changing order."""
    tokens = _RAW_TOKEN.findall(text)  # in their letter case, which distinguishes the cases of an enumeration
    if _looped_windows(tokens) >= LOOP_SHARE * max(len(tokens) - WINDOW + 1, 1):
        return True
    sentences = [sentence for part in _SENTENCE.split(text) if any(map(str.isalpha, sentence := part.strip()))]
    return len(sentences) >= LOOP_SENTENCES * max(len(set(sentences)), 2)


def _looped_windows(tokens: Sequence[str]) -> int:
    """The number of windows inside loops: runs of windows that all recur at one distance, longer than that distance.

    The cases of an enumeration also recur at one distance, but each begins with a case of its own, which ends the run.
    """
    last: dict[tuple[str, ...], int] = {}
    looped = run = previous = 0
    for start, window in enumerate(zip(*(tokens[shift:] for shift in range(WINDOW)), strict=False)):
        distance = start - last.get(window, start)
        last[window] = start
        if distance != previous:
            looped += run if 0 < previous <= run else 0
            run, previous = 0, distance
        run += 1
    return looped + (run if 0 < previous <= run else 0)

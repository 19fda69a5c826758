"""Detects reasoning behaviours in responses from phrases: hesitation, backtracking, verification, ...

The phrases are listed in `words/english.json` and `words/chinese.json`, together with texts that must and must not
match. English phrases match whole words (a final `*` matches any ending); Chinese phrases match anywhere. A phrase that
starts with `^` matches only at the beginning of a clause: "Wait, ..." is hesitation, "they wait" is not.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrl.evaluation.intervals import clustered_proportion
from jaxrl.rewards.unicode import words

WORDED = ("hesitation", "verification", "backtracking", "case_splitting", "summing_up", "guessing")
BEHAVIOURS = (*WORDED, "repetition", "rethinking", "markdown", "boxed", "mixed_language")

_FOLDER = Path(__file__).parent / "words"
_CLAUSE_ENDS = frozenset(".!?,;:\n…()\"'。！？，；：、（）")
_MARKDOWN = re.compile(
    r"^#{1,6} |^[ \t]{0,8}[-*+] (?=\S)|\*\*[^*\n]{1,200}\*\*|^[ \t]{0,8}```|^\|.{1,400}\|[ \t]*$",
    re.MULTILINE,
)
_BOXED = re.compile(r"\\boxed\b")
_WORD = re.compile(r"[\u4e00-\u9fff]|\w+")
LOOP_WORDS, LOOP_TIMES = 12, 3  # a loop: the same 12 words for the third time

_SCRIPTS = {
    "han": "\u3400-\u4dbf\u4e00-\u9fff",
    "kana": "\u3040-\u30ff",
    "korean": "\uac00-\ud7af",
    "russian": "\u0400-\u052f",
    "arabic": "\u0600-\u06ff",
    "hindi": "\u0900-\u097f",
    "thai": "\u0e00-\u0e7f",
    "greek": "\u0370-\u03ff",
    "hebrew": "\u0590-\u05ff",
}
_SCRIPT_LETTERS = {name: re.compile(f"[{letters}]") for name, letters in _SCRIPTS.items()}
_MIN_LETTERS, _MIN_WORDS = 4, 3  # fewer count as a quotation, not as another language


class Hit(NamedTuple):
    """One occurrence of a behaviour: text[start:end]."""

    behaviour: str
    start: int
    end: int


@cache
def _word_lists(language: str) -> dict[str, dict[str, list[str]]]:
    return json.loads((_FOLDER / f"{language}.json").read_text(encoding="utf-8"))


@cache
def _patterns() -> dict[str, list[tuple[re.Pattern, bool]]]:
    """Maps each behaviour to its (pattern, must begin a clause) pairs."""
    patterns = {}
    for behaviour in WORDED:
        patterns[behaviour] = []
        for language in ("english", "chinese"):
            phrases = _word_lists(language)[behaviour]["phrases"]
            for anchored in (False, True):
                chosen = [phrase.removeprefix("^") for phrase in phrases if phrase.startswith("^") == anchored]
                if chosen:
                    patterns[behaviour].append((_compile(chosen, language), anchored))
    return patterns


def _compile(phrases: Sequence[str], language: str) -> re.Pattern:
    ordered = sorted(phrases, key=len, reverse=True)
    if language == "chinese":
        return re.compile("|".join(map(re.escape, ordered)))
    forms = []
    for phrase in ordered:
        form = r"\s{1,4}".join(map(re.escape, phrase.removesuffix("*").split()))
        forms.append(form + (r"\w{0,12}" if phrase.endswith("*") else ""))
    letters = "".join(
        sorted({phrase[0] for phrase in ordered})
    )  # a fast test first: most words start with none of them
    return re.compile(rf"\b(?=[{letters}])(?:{'|'.join(forms)})\b", re.IGNORECASE)


def _begins_clause(text: str, start: int) -> bool:
    before = text[max(0, start - 8) : start].rstrip(" \t*_")
    if not before:
        return start <= 8
    return before[-1] in _CLAUSE_ENDS or before.endswith((">", "-"))


def find_behaviours(response: str, *, names: Sequence[str] = ()) -> list[Hit]:
    """All occurrences of all behaviours, by position. names: people's names, ignored in the detection of languages."""
    hits = []
    for behaviour, patterns in _patterns().items():
        for pattern, anchored in patterns:
            for match in pattern.finditer(response):
                if not anchored or _begins_clause(response, match.start()):
                    hits.append(Hit(behaviour, *match.span()))
    hits += _find_rethinking(response, hits)
    hits += [Hit("markdown", *match.span()) for match in _MARKDOWN.finditer(response)]
    hits += [Hit("boxed", *match.span()) for match in _BOXED.finditer(response)]
    hits += _find_loops(response)
    hits += _find_other_languages(response, names)
    return sorted(hits, key=lambda hit: (hit.start, hit.end, hit.behaviour))


def _find_rethinking(response: str, hits: Sequence[Hit]) -> list[Hit]:
    """Reasoning phrases or a <think> tag after the answer has begun."""
    answer_start = response.find("<answer>")
    if answer_start < 0:
        return []
    reasoning = ("hesitation", "verification", "backtracking", "case_splitting")
    spans = {(hit.start, hit.end) for hit in hits if hit.behaviour in reasoning and hit.start > answer_start}
    spans |= {match.span() for match in re.finditer("<think>", response) if match.start() > answer_start}
    return [Hit("rethinking", start, end) for start, end in sorted(spans)]


def _find_loops(response: str) -> list[Hit]:
    """Each repetition of a sequence of 12 words from its third occurrence on, without overlaps."""
    tokens = [(match.group().lower(), match.start(), match.end()) for match in _WORD.finditer(response)]
    text_words = [word for word, _, _ in tokens]
    last: dict[tuple[str, ...], tuple[int, int]] = {}
    hits, free = [], 0
    for at in range(len(text_words) - LOOP_WORDS + 1):
        sequence = tuple(text_words[at : at + LOOP_WORDS])
        times, before = last.get(sequence, (0, -LOOP_WORDS))
        if at < before + LOOP_WORDS:
            continue
        last[sequence] = (times + 1, at)
        if times + 1 >= LOOP_TIMES and at >= free:
            hits.append(Hit("repetition", tokens[at][1], tokens[at + LOOP_WORDS - 1][2]))
            free = at + LOOP_WORDS
    return hits


def languages(text: str, *, names: Sequence[str] = ()) -> dict[str, int]:
    """The languages in `text`, with the number of letters (for Latin scripts: of typical words) found.

    A language counts from 4 letters of its script or 3 typical words on; `names` are ignored. Han letters count as
    Japanese if there is kana, else as Chinese.
    """
    for name in names:
        text = text.replace(name, " ")
    seen = {} if text.isascii() else {name: len(letters.findall(text)) for name, letters in _SCRIPT_LETTERS.items()}
    han, kana = seen.pop("han", 0), seen.pop("kana", 0)
    seen |= {"japanese": han + kana} if kana else {"chinese": han}
    counts = {name: count for name, count in seen.items() if count >= _MIN_LETTERS}
    word_counts = Counter(words(text))
    for name, typical in _word_lists("languages").items():
        occurrences = [word_counts[word] for word in typical if word_counts[word]]
        if sum(occurrences) >= _MIN_WORDS and len(occurrences) >= 2:
            counts[name] = sum(occurrences)
    return counts


def _find_other_languages(response: str, names: Sequence[str]) -> list[Hit]:
    """One hit per span in another script, or one for the whole text if two languages in Latin script mix."""
    counts = languages(response, names=names)
    if len(counts) < 2:
        return []
    main = max(counts, key=counts.get)
    others = [name for name in counts if name != main]
    letters = {"chinese": _SCRIPTS["han"], "japanese": _SCRIPTS["han"] + _SCRIPTS["kana"]} | _SCRIPTS
    foreign = "".join(letters.get(name, "") for name in others)
    if not foreign:
        return [Hit("mixed_language", 0, len(response))]
    in_names = {
        index for name in names for match in re.finditer(re.escape(name), response) for index in range(*match.span())
    }
    return [
        Hit("mixed_language", *match.span())
        for match in re.finditer(f"[{foreign}]+", response)
        if match.start() not in in_names
    ]


def count_behaviours(response: str, *, names: Sequence[str] = ()) -> dict[str, int]:
    """Number of occurrences of each of BEHAVIOURS in `response`."""
    counts = Counter(hit.behaviour for hit in find_behaviours(response, names=names))
    return {behaviour: counts[behaviour] for behaviour in BEHAVIOURS}


def behaviour_metrics(counts: Sequence[dict[str, int]], correct: Sequence[bool], group_size: int) -> dict[str, float]:
    """Behaviour metrics of a step.

    For each behaviour: `behaviour/NAME`, the share of responses; `/count`, occurrences per response; and the accuracy
    `/with` and `/without` it, each with the bounds of its 95 % interval (`/with_low`, ...) clustered by prompt. A side
    without responses has no accuracy entries.

    counts: `count_behaviours` of each of the B responses. correct: B flags. group_size: responses per prompt; rows of
    one prompt are consecutive. Raises ValueError if the lengths do not fit.
    """
    if len(counts) != len(correct) or len(counts) % group_size:
        raise ValueError(
            f"expected one correctness flag per response, in groups of {group_size}, got {len(correct)} flags for "
            f"{len(counts)} responses"
        )
    metrics: dict[str, float] = {}
    if not counts:
        return metrics
    right = np.array(correct, bool).reshape(-1, group_size)
    for behaviour in BEHAVIOURS:
        name = f"behaviour/{behaviour}"
        times = np.array([row[behaviour] for row in counts]).reshape(-1, group_size)
        metrics |= {name: float((times > 0).mean()), f"{name}/count": float(times.mean())}
        for side, chosen in (("with", times > 0), ("without", times == 0)):
            if chosen.any():
                estimate = clustered_proportion((right & chosen).sum(axis=1), chosen.sum(axis=1))
                metrics |= {
                    f"{name}/{side}": estimate.value,
                    f"{name}/{side}_low": estimate.low,
                    f"{name}/{side}_high": estimate.high,
                }
    return metrics

"""What the model does while it thinks, read from its words: hesitation, going back, checking, ...

Words come from `words/english.json` and `words/chinese.json`, where each behaviour carries texts that must
and must not match. English phrases match whole words (`*` at the end: any ending), Chinese ones match
anywhere; `^` in front asks for the beginning of a clause, so that "Wait, ..." is hesitation and "they wait"
is not.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrl.evaluation.intervals import clustered_share
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
_PIECE = re.compile(r"[\u4e00-\u9fff]|\w+")
LOOP_WORDS, LOOP_TIMES = 12, 3  # the same 12 words for the third time is a loop

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
_MIN_LETTERS, _MIN_WORDS = 4, 3  # how much of a language makes it spoken rather than quoted


class Hit(NamedTuple):
    """One place where a behaviour shows: text[start:end]."""

    behaviour: str
    start: int
    end: int


@cache
def _listed(language: str) -> dict[str, dict[str, list[str]]]:
    return json.loads((_FOLDER / f"{language}.json").read_text(encoding="utf-8"))


@cache
def _patterns() -> dict[str, list[tuple[re.Pattern, bool]]]:
    """Behaviour -> (pattern, must begin a clause) of all lists."""
    found = {}
    for behaviour in WORDED:
        found[behaviour] = []
        for language in ("english", "chinese"):
            phrases = _listed(language)[behaviour]["phrases"]
            for anchored in (False, True):
                chosen = [phrase.removeprefix("^") for phrase in phrases if phrase.startswith("^") == anchored]
                if chosen:
                    found[behaviour].append((_compile(chosen, language), anchored))
    return found


def _compile(phrases: Sequence[str], language: str) -> re.Pattern:
    ordered = sorted(phrases, key=len, reverse=True)
    if language == "chinese":
        return re.compile("|".join(map(re.escape, ordered)))
    forms = []
    for phrase in ordered:
        form = r"\s{1,4}".join(map(re.escape, phrase.removesuffix("*").split()))
        forms.append(form + (r"\w{0,12}" if phrase.endswith("*") else ""))
    letters = "".join(sorted({phrase[0] for phrase in ordered}))  # looked at first, as most words begin with none
    return re.compile(rf"\b(?=[{letters}])(?:{'|'.join(forms)})\b", re.IGNORECASE)


def _begins_clause(text: str, start: int) -> bool:
    before = text[max(0, start - 8) : start].rstrip(" \t*_")
    if not before:
        return start <= 8
    return before[-1] in _CLAUSE_ENDS or before.endswith((">", "-"))


def find(response: str, *, names: Sequence[str] = ()) -> list[Hit]:
    """Every place where a behaviour shows, by place. `names` of people are no sign of another language."""
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
    """Thinking words or an opened <think> after the answer has begun."""
    begun = response.find("<answer>")
    if begun < 0:
        return []
    thinking = ("hesitation", "verification", "backtracking", "case_splitting")
    found = {(hit.start, hit.end) for hit in hits if hit.behaviour in thinking and hit.start > begun}
    found |= {match.span() for match in re.finditer("<think>", response) if match.start() > begun}
    return [Hit("rethinking", start, end) for start, end in sorted(found)]


def _find_loops(response: str) -> list[Hit]:
    """From its third time on, each run of 12 words said before (runs that do not overlap)."""
    pieces = [(match.group().lower(), match.start(), match.end()) for match in _PIECE.finditer(response)]
    said = [piece for piece, _, _ in pieces]
    last: dict[tuple[str, ...], tuple[int, int]] = {}
    hits, free = [], 0
    for at in range(len(said) - LOOP_WORDS + 1):
        run = tuple(said[at : at + LOOP_WORDS])
        times, before = last.get(run, (0, -LOOP_WORDS))
        if at < before + LOOP_WORDS:
            continue
        last[run] = (times + 1, at)
        if times + 1 >= LOOP_TIMES and at >= free:
            hits.append(Hit("repetition", pieces[at][1], pieces[at + LOOP_WORDS - 1][2]))
            free = at + LOOP_WORDS
    return hits


def languages(text: str, *, names: Sequence[str] = ()) -> dict[str, int]:
    """Languages that `text` speaks, with how many letters (or in Latin script telling words) were seen.

    A language counts from 4 letters of its script or 3 telling words; `names` are left out. Han letters
    beside kana count as Japanese, else as Chinese.
    """
    for name in names:
        text = text.replace(name, " ")
    seen = {} if text.isascii() else {name: len(letters.findall(text)) for name, letters in _SCRIPT_LETTERS.items()}
    han, kana = seen.pop("han", 0), seen.pop("kana", 0)
    seen |= {"japanese": han + kana} if kana else {"chinese": han}
    spoken = {name: count for name, count in seen.items() if count >= _MIN_LETTERS}
    told = Counter(words(text))
    for name, telling in _listed("languages").items():
        counts = [told[word] for word in telling if told[word]]
        if sum(counts) >= _MIN_WORDS and len(counts) >= 2:
            spoken[name] = sum(counts)
    return spoken


def _find_other_languages(response: str, names: Sequence[str]) -> list[Hit]:
    """One hit for each stretch in another script, or one for the whole when two Latin languages mix."""
    spoken = languages(response, names=names)
    if len(spoken) < 2:
        return []
    main = max(spoken, key=spoken.get)
    others = [name for name in spoken if name != main]
    letters = {"chinese": _SCRIPTS["han"], "japanese": _SCRIPTS["han"] + _SCRIPTS["kana"]} | _SCRIPTS
    foreign = "".join(letters.get(name, "") for name in others)
    if not foreign:
        return [Hit("mixed_language", 0, len(response))]
    inside = {
        place for name in names for match in re.finditer(re.escape(name), response) for place in range(*match.span())
    }
    return [
        Hit("mixed_language", *match.span())
        for match in re.finditer(f"[{foreign}]+", response)
        if match.start() not in inside
    ]


def count(response: str, *, names: Sequence[str] = ()) -> dict[str, int]:
    """How often each of BEHAVIOURS shows in `response`."""
    counts = Counter(hit.behaviour for hit in find(response, names=names))
    return {behaviour: counts[behaviour] for behaviour in BEHAVIOURS}


def summarize(counts: Sequence[dict[str, int]], correct: Sequence[bool], group_size: int) -> dict[str, float]:
    """Metrics of a step from the `count` of each response and whether it was right, in groups of one prompt each.

    For each behaviour: `behaviour/NAME`, the share of responses, `/count` per response, and the accuracy
    `/with` and `/without` it, each with the ends of its 95 percent interval (`/with_low`, ...), which knows that
    responses to one prompt resemble each other. A side without responses has no accuracy entries.
    """
    if len(counts) != len(correct) or len(counts) % group_size:
        raise ValueError(
            f"expected one correctness for each response, in groups of {group_size}, got {len(correct)} for "
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
                estimate = clustered_share((right & chosen).sum(axis=1), chosen.sum(axis=1))
                metrics |= {
                    f"{name}/{side}": estimate.value,
                    f"{name}/{side}_low": estimate.low,
                    f"{name}/{side}_high": estimate.high,
                }
    return metrics

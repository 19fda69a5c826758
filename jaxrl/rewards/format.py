"""The form of a response: one thinking part, one answer part, in order, and nothing else."""

import itertools
import re
import unicodedata
from difflib import SequenceMatcher
from typing import NamedTuple

from jaxrl.rewards.thinking import judge_thinking

END_TOKENS = (
    "<|im_end|>",
    "<|endoftext|>",
    "</s>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<eos>",
)
MAX_TAG_LIKE = 200

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_OPEN, _CLOSE = "<＜‹〈⟨«《\\[【", ">＞›〉⟩»》\\]】"
_NAME = rf"[\s/\\|／]{{0,3}}+([^\s&{_OPEN}{_CLOSE}]{{2,16}}+)(?:\s[^&{_OPEN}{_CLOSE}\n]{{0,24}}+)?+"
_TAG_LIKE = re.compile(rf"[{_OPEN}]{_NAME}[{_CLOSE}]")
_ESCAPED_TAG = re.compile(rf"&lt;{_NAME}&gt;")
_SPECIAL = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>")
_TURN_WORDS = ("user", "human", "assistant", "用户", "助手")
_TURN = re.compile(rf"^[ \t*#>]{{0,6}}+(?:{'|'.join(_TURN_WORDS)})[ \t*]{{0,4}}+[:：]", re.MULTILINE)
# Cyrillic, Greek, phonetic letters and digits that pass for the Latin letters of "think" and "answer".
_LOOKS = str.maketrans(dict(zip("аеорсухіѕнткԝηωιτκαερνοɑɩ015@$", "aeopcyxishtkwnwitkaepvoaioisas", strict=True)))


class Parts(NamedTuple):
    """A response cut into its parts; `thinking` or `answer` is None when it is not there exactly once."""

    thinking: str | None
    answer: str | None
    reasons: tuple[str, ...]  # why the form is wrong; empty = the form is right
    suspects: tuple[str, ...]


def strip_end_token(text: str) -> str:
    """Take away white space at the end and one end token."""
    text = text.rstrip()
    for token in END_TOKENS:
        if text.endswith(token):
            return text[: -len(token)].rstrip()
    return text


def split(text: str, *, prompt_opens_think: bool, truncated: bool) -> Parts:
    """Cut `text` (NFC, special tokens visible) into thinking and answer, every fault of its form in words."""
    body = strip_end_token(text)
    reasons = ["the response was cut off by length"] if truncated else []
    suspects = ["cut_off"] if truncated else []
    expected = (0 if prompt_opens_think else 1, 1, 1, 1)
    counts = tuple(body.count(tag) for tag in _TAGS)
    tag_faults = [
        f"{tag} stands {count} times, expected {wish}"
        for tag, count, wish in zip(_TAGS, counts, expected, strict=True)
        if count != wish
    ]
    if counts[2] > 1:
        suspects.append("second_answer")
    order_faults = [] if tag_faults else _order_faults(body, prompt_opens_think)
    if order_faults or (tag_faults and _has_outside_text(body, prompt_opens_think)):
        suspects.append("outside_text")
    marks = _foreign_marks(body)
    reasons += [*tag_faults, *order_faults, *(fault for _, fault in marks)]
    suspects += [name for name, _ in marks]
    thinking, answer = _find_parts(body, prompt_opens_think)
    return Parts(thinking, answer, tuple(reasons), tuple(dict.fromkeys(suspects)))


def _find_parts(body: str, prompt_opens_think: bool) -> tuple[str | None, str | None]:
    start = 0 if prompt_opens_think else body.find("<think>")
    end = body.find("</think>")
    thinking = None
    if start >= 0 and end >= start and body.count("</think>") == 1:
        thinking = body[start if prompt_opens_think else start + len("<think>") : end]
    answer = None
    if body.count("<answer>") == 1 and body.count("</answer>") == 1:
        first, last = body.find("<answer>") + len("<answer>"), body.find("</answer>")
        answer = body[first:last] if first <= last else None
    return thinking, answer


def _order_faults(body: str, prompt_opens_think: bool) -> list[str]:
    """Faults of order and of text between the parts; each tag is known to stand as often as it should."""
    start = 0 if prompt_opens_think else body.find("<think>")
    places = (start, body.find("</think>"), body.find("<answer>"), body.find("</answer>"))
    if list(places) != sorted(places):
        return ["the parts are not in order: thinking first, then the answer"]
    reasons = []
    if body[:start].strip():
        reasons.append("there is text before the thinking")
    if body[places[1] + len("</think>") : places[2]].strip():
        reasons.append("there is text between the thinking and the answer")
    if body[places[3] + len("</answer>") :].strip():
        reasons.append("there is text after the answer")
    return reasons


def _has_outside_text(body: str, prompt_opens_think: bool) -> bool:
    """Text before the first, after the last or between the two parts, for responses whose tags are broken."""
    before = "" if prompt_opens_think else body.partition("<think>")[0]
    _, answered, after = body.rpartition("</answer>")
    between = body.partition("</think>")[2].partition("<answer>")[0] if "<answer>" in body else ""
    return bool(before.strip() or (answered and after.strip()) or between.strip())


def _foreign_marks(body: str) -> list[tuple[str, str]]:
    """(suspect, reason) for special tokens, invented turns and tags that only look like the four."""
    faults = []
    special = _SPECIAL.search(body)
    if special:
        faults.append(("special_token", f"the special token {special.group()} stands inside the response"))
    lowered = body.lower()
    if any(word in lowered for word in _TURN_WORDS) and _TURN.search(lowered):
        faults.append(("invented_turn", "another turn of the conversation is written into the response"))
    tag_like = itertools.chain(_TAG_LIKE.finditer(body), _ESCAPED_TAG.finditer(body))
    for match in itertools.islice(tag_like, MAX_TAG_LIKE):
        if match.group() not in _TAGS and _looks_like_a_tag(match.group(1)):
            faults.append(("look_alike_tag", f"{match.group()} looks like one of the four tags and is none"))
            break
    else:
        if next(tag_like, None):
            faults.append(("look_alike_tag", f"more than {MAX_TAG_LIKE} tag-like marks stand in the response"))
    return faults


def _looks_like_a_tag(name: str) -> bool:
    plain = "".join(filter(str.isalpha, unicodedata.normalize("NFKC", name).casefold().translate(_LOOKS)))
    if "think" in plain or "answer" in plain or "thought" in plain:
        return True
    return any(SequenceMatcher(None, plain, word).ratio() >= 0.8 for word in ("think", "answer"))


def judge_format(
    text: str,
    *,
    quiz: str,
    names: tuple[str, ...],
    roles: tuple[str, ...],
    prompt_opens_think: bool,
    truncated: bool,
) -> Parts:
    """`split`, then judge what the thinking holds; a response with no `reasons` has the right form."""
    parts = split(text, prompt_opens_think=prompt_opens_think, truncated=truncated)
    if parts.thinking is None:
        return parts
    thinking = judge_thinking(parts.thinking, quiz=quiz, answer=parts.answer or "", names=names, roles=roles)
    suspects = tuple(dict.fromkeys((*parts.suspects, *thinking.suspects)))
    return parts._replace(reasons=parts.reasons + thinking.reasons, suspects=suspects)

"""Version 1 of the format of a response: a thinking part, then an answer part, and nothing else."""

import itertools
import re
import unicodedata
from difflib import SequenceMatcher

from jaxrl.rewards.format import Parts
from jaxrl.rewards.version1.thinking import judge_thinking

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
# Cyrillic, Greek and phonetic letters and digits that look like the Latin letters of "think" and "answer".
_CONFUSABLES = str.maketrans(dict(zip("аеорсухіѕнткԝηωιτκαερνοɑɩ015@$", "aeopcyxishtkwnwitkaepvoaioisas", strict=True)))


def strip_end_token(text: str) -> str:
    """Remove trailing white space and one end token."""
    text = text.rstrip()
    for token in END_TOKENS:
        if text.endswith(token):
            return text[: -len(token)].rstrip()
    return text


def split(text: str, *, prompt_opens_think: bool, truncated: bool) -> Parts:
    """Split `text` (NFC, with special tokens) into thinking and answer, and list violations of the format."""
    body = strip_end_token(text)
    reasons = ["the response was truncated"] if truncated else []
    suspects = ["truncated"] if truncated else []
    expected = (0 if prompt_opens_think else 1, 1, 1, 1)
    counts = tuple(body.count(tag) for tag in _TAGS)
    tag_errors = [
        f"{tag} occurs {count} times, expected {required}"
        for tag, count, required in zip(_TAGS, counts, expected, strict=True)
        if count != required
    ]
    if counts[2] > 1:
        suspects.append("second_answer")
    order_errors = [] if tag_errors else _order_errors(body, prompt_opens_think)
    if order_errors or (tag_errors and _has_outside_text(body, prompt_opens_think)):
        suspects.append("outside_text")
    marks = _injected_marks(body)
    reasons += [*tag_errors, *order_errors, *(reason for _, reason in marks)]
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


def _order_errors(body: str, prompt_opens_think: bool) -> list[str]:
    """Violations of order and text outside the parts. Each tag must occur as often as expected."""
    start = 0 if prompt_opens_think else body.find("<think>")
    positions = (start, body.find("</think>"), body.find("<answer>"), body.find("</answer>"))
    if list(positions) != sorted(positions):
        return ["the parts are not in order: thinking first, then the answer"]
    reasons = []
    if body[:start].strip():
        reasons.append("there is text before the thinking")
    if body[positions[1] + len("</think>") : positions[2]].strip():
        reasons.append("there is text between the thinking and the answer")
    if body[positions[3] + len("</answer>") :].strip():
        reasons.append("there is text after the answer")
    return reasons


def _has_outside_text(body: str, prompt_opens_think: bool) -> bool:
    """Whether there is text before, between or after the parts, for responses with wrong tags."""
    before = "" if prompt_opens_think else body.partition("<think>")[0]
    _, answered, after = body.rpartition("</answer>")
    between = body.partition("</think>")[2].partition("<answer>")[0] if "<answer>" in body else ""
    return bool(before.strip() or (answered and after.strip()) or between.strip())


def _injected_marks(body: str) -> list[tuple[str, str]]:
    """(suspect, reason) for special tokens, invented turns of the conversation and look-alike tags."""
    errors = []
    special = _SPECIAL.search(body)
    if special:
        errors.append(("special_token", f"the special token {special.group()} is inside the response"))
    lowered = body.lower()
    if any(word in lowered for word in _TURN_WORDS) and _TURN.search(lowered):
        errors.append(("invented_turn", "the response contains another turn of the conversation"))
    tag_like = itertools.chain(_TAG_LIKE.finditer(body), _ESCAPED_TAG.finditer(body))
    for match in itertools.islice(tag_like, MAX_TAG_LIKE):
        if match.group() not in _TAGS and _looks_like_a_tag(match.group(1)):
            errors.append(("look_alike_tag", f"{match.group()} looks like one of the four tags but is not"))
            break
    else:
        if next(tag_like, None):
            errors.append(("look_alike_tag", f"the response contains more than {MAX_TAG_LIKE} tag-like marks"))
    return errors


def _looks_like_a_tag(name: str) -> bool:
    plain = "".join(filter(str.isalpha, unicodedata.normalize("NFKC", name).casefold().translate(_CONFUSABLES)))
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
    """`split`, then judge the content of the thinking; the format is right if there are no `reasons`."""
    parts = split(text, prompt_opens_think=prompt_opens_think, truncated=truncated)
    if parts.thinking is None:
        return parts
    thinking = judge_thinking(parts.thinking, quiz=quiz, answer=parts.answer or "", names=names, roles=roles)
    suspects = tuple(dict.fromkeys((*parts.suspects, *thinking.suspects)))
    return parts._replace(reasons=parts.reasons + thinking.reasons, suspects=suspects)

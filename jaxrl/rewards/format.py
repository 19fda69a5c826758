"""The format of a response: a thinking part, then an answer part, and nothing else."""

import itertools
import re
import unicodedata
from difflib import SequenceMatcher
from typing import NamedTuple

from jaxrl.rewards.thinking import judge_thinking

# Tokens that end a response or fill a batch behind it, of the families that are supported or served.
END_TOKENS = (
    "<|im_end|>",  # Qwen, chat
    "<|endoftext|>",  # Qwen, text; OLMo 2
    "<｜end▁of▁sentence｜>",  # DeepSeek, R1-Distill: full-width bars and U+2581
    "<|eot_id|>",  # Llama 3, chat
    "<|end_of_text|>",  # Llama 3, text
    "<|eom_id|>",  # Llama 3, tools
    "<|finetune_right_pad_id|>",  # Llama 3, padding
    "<end_of_turn>",  # Gemma
    "<eos>",  # Gemma
    "<pad>",  # Gemma, OLMo
    "</s>",  # Llama 2, Mistral
)
MAX_TAG_LIKE = 200

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_OPEN, _CLOSE = "<＜‹〈⟨«《", ">＞›〉⟩»》"
_BRACKETS = re.escape("[]【】")
_NAME = rf"[\s/\\|／]{{0,3}}+([^\s&{_OPEN}{_CLOSE}{_BRACKETS}]{{2,16}}+)(?:\s[^&{_OPEN}{_CLOSE}\n]{{0,24}}+)?+"
_TAG_LIKE = re.compile(rf"[{_OPEN}]{_NAME}[{_CLOSE}]")
_ESCAPED_TAG = re.compile(rf"&lt;{_NAME}&gt;")
_BRACKETED = re.compile(rf"[\[【][ \t]?([/\\／]?)[ \t]?([^\s{_BRACKETS}]{{2,16}}+)[ \t]?[\]】]")
_WORDS_LIKE_TAGS = frozenset({"thing", "things", "thin", "thank", "thanks", "thick"})
_SPECIAL = re.compile(
    r"[<＜][|｜][^|｜<>\n]{1,40}[|｜][>＞]"  # <|im_start|>, <|start_header_id|>, <｜User｜>, <|assistant|>
    r"|</?s>|<(?:bos|eos|pad|unk)>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>"
)
_USER, _ASSISTANT = ("user", "human", "用户"), ("assistant", "助手")
_SPEAKER = re.compile(
    r"(?:^|(?<=<think>))[ \t*>]{0,6}+(?P<hashes>#{0,4})[ \t*]{0,4}+"
    rf"(?P<who>{'|'.join((*_USER, *_ASSISTANT))})[ \t*]{{0,4}}+(?:[:：]|(?P<alone>$))",
    re.MULTILINE,
)
# Cyrillic, Greek and phonetic letters and digits that look like the Latin letters of "think" and "answer".
_CONFUSABLES = str.maketrans(dict(zip("аеорсухіѕнткԝηωιτκαερνοɑɩ015@$", "aeopcyxishtkwnwitkaepvoaioisas", strict=True)))


class Parts(NamedTuple):
    """A response split into its parts; `thinking` or `answer` is None unless it occurs exactly once."""

    thinking: str | None
    answer: str | None
    reasons: tuple[str, ...]  # violations of the format; empty: the format is right
    suspects: tuple[str, ...]


def strip_end_token(text: str) -> str:
    """Remove trailing white space and end tokens; a batch of unequal responses is filled with them."""
    end = len(text)
    while True:
        while end and text[end - 1].isspace():
            end -= 1
        token = next((token for token in END_TOKENS if text.endswith(token, 0, end)), None)
        if token is None:
            return text[:end]
        end -= len(token)


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
    reasons += [*tag_errors, *order_errors, *(reason for _, reason in marks if reason)]
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
    """(suspect, reason) for special tokens, turns of a conversation and look-alike tags. No reason: only counted."""
    errors = []
    special = _SPECIAL.search(body)
    if special:
        errors.append(("special_token", f"the special token {special.group()} is inside the response"))
    speakers = _speakers(body)
    if speakers:
        turn = "the response contains another turn of the conversation" if _is_conversation(body, speakers) else ""
        errors.append(("invented_turn", turn))
    if tag := _look_alike(body):
        errors.append(("look_alike_tag", tag))
    return errors


def _speakers(body: str) -> list[re.Match[str]]:
    """Lines that begin as a speaker's turn does ("User: ..."), or consist of the speaker."""
    lowered = body.lower()
    return list(_SPEAKER.finditer(lowered)) if any(word in lowered for word in (*_USER, *_ASSISTANT)) else []


def _is_conversation(body: str, speakers: list[re.Match[str]]) -> bool:
    """Whether lines with speakers are turns of a conversation, rather than a list such as "User: 3 logins each".

    They are if a speaker is in a heading ("### Human:"), if "Human:" follows an empty line, as in transcripts that
    base models have read, if an assistant's line follows a user's line that asks something, or if the lines "user"
    and "assistant" follow each other, as chat templates write them without their special tokens.
    """
    asked = False
    for index, speaker in enumerate(speakers):
        start = speaker.start()
        after_empty_line = not body[:start].strip() or body[:start].rstrip(" \t").endswith("\n\n")
        if (speaker["hashes"] and speaker["alone"] is None) or (speaker["who"] == "human" and after_empty_line):
            return True
        end = speakers[index + 1].start() if index + 1 < len(speakers) else len(body)
        if speaker["who"] in _USER:
            said = body[speaker.end() : end]
            asked = speaker["alone"] is not None or any(mark in said for mark in "?？؟")
            if asked and " ASSISTANT: " in said:  # on the same line, as in Vicuna's template
                return True
        elif asked:
            return True
    return False


def _look_alike(body: str) -> str:
    """The reason if something in the response looks like one of the four tags but is not."""
    tag_like = itertools.chain(_TAG_LIKE.finditer(body), _ESCAPED_TAG.finditer(body))
    for match in itertools.islice(tag_like, MAX_TAG_LIKE):
        if match.group() not in _TAGS and _looks_like_a_tag(match.group(1)):
            return f"{match.group()} looks like one of the four tags but is not"
    if next(tag_like, None):
        return f"the response contains more than {MAX_TAG_LIKE} tag-like marks"
    # Brackets are for remarks as well ("[thing to check: ...]"); a tag is one word, and closed by another one.
    opened = set()
    for match in itertools.islice(_BRACKETED.finditer(body), MAX_TAG_LIKE):
        name = _plain(match.group(2))
        if match.group(1) and name in opened:
            return f"{match.group()} looks like one of the four tags but is not"
        if not match.group(1) and _looks_like_a_tag(match.group(2)):
            opened.add(name)
    return ""


def _plain(name: str) -> str:
    return "".join(filter(str.isalpha, unicodedata.normalize("NFKC", name).casefold().translate(_CONFUSABLES)))


def _looks_like_a_tag(name: str) -> bool:
    plain = _plain(name)
    if "think" in plain or "answer" in plain or "thought" in plain:
        return True
    if plain in _WORDS_LIKE_TAGS:
        return False
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

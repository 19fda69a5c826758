"""Version 1 of the parser of roles: every word of an answer must be part of a plain statement of roles.

The text is encoded as a string of one-letter codes (n name, r role, v "is", ...), which a grammar of clauses must match
completely. A word that is not in the lists below (if, maybe, says, an unknown name, a word with a letter of another
script) has no code, so negations, doubts, conditions, alternatives, questions and retractions are never parsed as
assertions.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from jaxrl.rewards.role_parser import Reading
from jaxrl.rewards.version1.unicode import UNSPACED, fold

_TOKEN = re.compile(f'\\n|\\.{{2,}}|-+>|=+>|[{UNSPACED}]|[^\\W_{UNSPACED}]+|[^\\s*_`#|{{}}\\[\\]"]')
_RULE_LINE = re.compile(r"^[ \t|:+=\-*_]{3,}$", re.MULTILINE)
_FENCE = re.compile(r"^[ \t]*```[ \t]*\w{0,10}[ \t]*$", re.MULTILINE)
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")

# Code -> its phrases. Longer phrases are matched first.
_PHRASES = {
    "v": "is; must be; has to be; 是; 为; 就是; 一定是; 必须是; 必定是",
    "w": "are; must be both; 都是; 均为; 均是",
    "b": "both; all",
    "a": "a; an; the; 一; 一个; 一名; 一位",
    "d": "so; therefore; thus; hence; finally; indeed; certainly; definitely; clearly; 因此; 所以; 那么; 故",
    ",": ",; ，; 、",
    "&": "and; &; 和; 与; 及; 以及; 并且; 且",
    ";": "\n; .; ;; !; 。; ；; ！; while; whereas; but; also; then; 而; 而且",
    "x": "not; rather than; instead of; and not; but not; 不是; 而不是; 而非",
    "(": "(; （",
    ")": "); ）",
    "-": "-; –; —; •; ·; +; ‣; ▪; ●; ◦",
    "=": ":; ：; =; ->; -->; =>; ==>; →; ⇒; ⟶; ↦",
    "t": "tells the truth; always tells the truth; truth-teller; truth teller; truthful; honest; 说真话; 总是说真话",
    "f": "lies; always lies; tells lies; always tells lies; liar; lying; dishonest; 说谎; 总是说谎; 说假话; 总是说假话",
    "h": "who; 他; 她",
    "l": "name; names; person; people; character; inhabitant; islander; resident; 姓名; 名字; 人物",
    "k": "role; type; identity; kind; 身份; 角色",
    "0": "none; nobody; no one; 无; 没有",
    "p": "answer; the answer; the answer is; final answer; the final answer; the final answer is; my answer; "
    "my answer is; here is the answer; here is my answer; here is the final answer; solution; the solution; "
    "the solution is; final solution; result; results; the roles are; the roles are as follows; roles; "
    "the identities are; the identities are as follows; identities; in conclusion; in summary; conclusion; "
    "summary; we conclude; we conclude that; i conclude; i conclude that; we have; the answer is as follows; "
    "the solution is as follows; 答案; 答案是; 答案为; 最终答案; 最终答案是; 结论; 综上; 综上所述",
}

_TAIL = r"(?:\(?,?&?x(?P<{0}>a?[rR])\)?|\(?,?&?h?v?a?(?P<{0}_words>[tf])\)?)?"
_LIST = r"n(?:(?:,&?|&)n)++"
_MANY = r"n(?:(?:[,&;]{1,3}+-?|-)n(?![=v(arRs\-]))*+"
_JUNK = re.compile(r"(?:lk;|[;,&\-d]|\(?1[;)=\-]{1,3}|p[=;,]?)*+")
_CLAUSES = tuple(
    re.compile(form)
    for form in (
        rf"(?P<who>n)(?:sk)?d*+(?:[=v\-](?:;-|=)?|\()?d*+a?(?P<role>[rR])\)?{_TAIL.format('not')}",
        rf"(?P<who>{_LIST})(?:wb?|=|bw)d*+a?(?P<role>[rR]){_TAIL.format('not')}",
        rf"a?(?P<role>[rR])(?:[wv=\-]|[wv]=)(?:;+-|;|-)?(?P<who>{_MANY}|0)",
        r"l=(?P<who>n)[,;]*+-?k=a?(?P<role>[rR])",
    )
)


class _RoleCode(NamedTuple):
    code: str
    value: int  # person index for n, role index for r and R, else -1
    text: str


def _tokens(text: str) -> tuple[str, ...]:
    return tuple(token for token in _TOKEN.findall(fold(text)))


def _plurals(role: str) -> list[str]:
    forms = [role + "s", role + "es"]
    if role.endswith("y"):
        forms.append(role[:-1] + "ies")
    if role.endswith(("f", "fe")):
        forms.append(role.removesuffix("e").removesuffix("f") + "ves")
    if role.endswith("man"):
        forms.append(role[:-3] + "men")
    return forms


class _RolePhrases(NamedTuple):
    """Phrases by their first token, longest first; and the role words that are also a person's name."""

    phrases: dict[str, list[tuple[tuple[str, ...], str, int]]]
    shared: dict[tuple[str, ...], int]


def _add(phrases: dict, key: tuple[str, ...], code: str, value: int) -> None:
    if key:
        phrases.setdefault(key[0], []).append((key, code, value))


@lru_cache(maxsize=1)
def _common_phrases() -> dict[str, list[tuple[tuple[str, ...], str, int]]]:
    phrases = {}
    for code, listed in _PHRASES.items():
        for phrase in re.split(r"; ", listed):
            key = ("\n",) if phrase == "\n" else _tokens(phrase)
            _add(phrases, key, code, -1)
    return phrases


@lru_cache(maxsize=4096)
def _lexicon(names: tuple[str, ...], roles: tuple[str, str]) -> _RolePhrases:
    specific, shared = {}, {}
    for index, name in enumerate(names):
        _add(specific, _tokens(name), "n", index)
    taken = {key for entries in specific.values() for key, _, _ in entries}
    for index, role in enumerate(roles):
        if _tokens(role) in taken:
            shared[_tokens(role)] = index
        else:
            _add(specific, _tokens(role), "r", index)
        for plural in _plurals(role):
            _add(specific, _tokens(plural), "R", index)
    phrases = {first: list(entries) for first, entries in specific.items()}
    for first, entries in _common_phrases().items():  # after the puzzle's words, which have priority at equal length
        phrases.setdefault(first, []).extend(entries)
    for entries in phrases.values():
        entries.sort(key=lambda entry: -len(entry[0]))
    return _RolePhrases(phrases, shared)


def _encode(tokens: tuple[str, ...], lexicon: _RolePhrases) -> list[_RoleCode] | str:
    """One `_RoleCode` per phrase, or the first token without a code."""
    found, at = [], 0
    while at < len(tokens):
        token = tokens[at]
        known = next(
            (entry for entry in lexicon.phrases.get(token, ()) if tokens[at : at + len(entry[0])] == entry[0]),
            None,
        )
        if known:
            key, code, value = known
        else:
            if token.isdecimal() and len(token) <= 3:
                key, code, value = (token,), "1", -1
            elif token == "'":
                if tokens[at + 1 : at + 2] == ("s",) and found and found[-1].code == "n":
                    key, code, value = ("'", "s"), "s", -1
                else:
                    at += 1
                    continue
            else:
                return token
        if code == "n" and key in lexicon.shared and found and found[-1].code in "va=(x":
            code, value = "r", lexicon.shared[key]
        found.append(_RoleCode(code, value, " ".join(key)))
        at += len(key)
    return found


def read_roles(answer: str, names: tuple[str, ...], roles: tuple[str, str]) -> Reading:
    """Parse one role for every person from `answer` (NFC).

    Accepts sentences, lists, `X: role`, grouped lists (`Knights: X, Y`), small tables and JSON, in any order and letter
    case. Rejects answers longer than 1,000 + 250 characters per person and everything but plain assertions.
    """
    if not answer.strip():
        return Reading(None, "the answer is empty")
    limit = 1000 + 250 * len(names)
    if len(answer) > limit:
        return Reading(
            None,
            f"the answer has {len(answer)} characters, a plain statement of the roles has at most {limit}",
        )
    text = _FENCE.sub("", answer.strip())
    text = _RULE_LINE.sub("", text)
    if text.lstrip()[:1] in ("{", "["):
        text = _ESCAPE.sub(lambda match: chr(int(match.group(1), 16)), text)
    encoded = _encode(_tokens(text), _lexicon(names, roles))
    if isinstance(encoded, str):
        return Reading(None, f"the answer contains {encoded[:40]!r}, which is not part of a statement of roles")
    return _read_clauses(encoded, names, roles)


def _read_clauses(encoded: list[_RoleCode], names: tuple[str, ...], roles: tuple[str, str]) -> Reading:
    codes = "".join(token.code for token in encoded)
    found: dict[int, int] = {}
    nobody: set[int] = set()
    at = _JUNK.match(codes).end()
    while at < len(codes):
        match = next(filter(None, (clause.match(codes, at) for clause in _CLAUSES)), None)
        if match is None:
            seen = " ".join(token.text for token in encoded[at : at + 6]).replace("\n", " ")
            return Reading(None, f"there is no plain statement of a role at {seen!r}")
        role = encoded[match.end("role") - 1].value
        if _contradicts(match, encoded, role):
            return Reading(None, "the answer contradicts itself about a role")
        for index in range(*match.span("who")):
            person = encoded[index].value
            if encoded[index].code == "0":
                nobody.add(role)
            if encoded[index].code != "n":
                continue
            if person in found:
                return Reading(None, f"{names[person]} is given a role twice")
            found[person] = role
        at = _JUNK.match(codes, match.end()).end()
    missing = [name for index, name in enumerate(names) if index not in found]
    if missing:
        return Reading(None, f"no role is given to {', '.join(missing)}")
    if nobody & set(found.values()):
        return Reading(None, "the answer contradicts itself: it assigns a role that it says nobody has")
    return Reading(tuple(found[index] for index in range(len(names))), "")


def _contradicts(match: re.Match, encoded: list[_RoleCode], role: int) -> bool:
    """True for "a knight, not a knight" and "a knight who lies"."""
    groups = match.groupdict()
    if groups.get("not"):
        return encoded[match.end("not") - 1].value == role
    if groups.get("not_words"):
        return ("t", "f").index(groups["not_words"]) != role
    return False

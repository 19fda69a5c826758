"""Splits an answer into the tokens that `RoleGrammar` parses.

Only the following decoration is removed without being parsed; any other character becomes part of a token:

- white space inside a line, emphasis (`*`, `_`, backticks), quotation marks, `[ ] { }` with content;
- marks at the start of a line: `#` of headings (outside fenced data), bullets;
- lines without text: rules of dashes and of tables, code fences without a language or with one of FENCE_LANGUAGES;
- TeX that only sets text: `$`, `\\(`, `\\text`, `\\boxed`, `\\begin{cases}` and the other commands of _TEX.

A token has the kinds of the phrase that it matches (`PHRASES`, the names, the role words). A name can equal another
phrase, such as the article "a", so a token can have several kinds. Text that matches no phrase is refused here.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from jaxrl.answers.text import UNSPACED, fold, straighten

FENCE_LANGUAGES = ("json", "yaml", "yml", "csv", "text", "txt", "plaintext", "markdown", "md", "latex", "tex")

_FENCE = re.compile(rf"^[ \t]*```[ \t]*(?:{'|'.join(FENCE_LANGUAGES)})?[ \t]*(?:\n|\Z)", re.MULTILINE | re.IGNORECASE)
_DATA_FENCE = re.compile(r"```[ \t]*(?:json|ya?ml)", re.IGNORECASE)  # "#" starts a comment in YAML
_RULE_LINE = re.compile(r"^[ \t|:+=\-*_]{3,}(?:\n|\Z)", re.MULTILINE)
_HEADING_MARK = re.compile(r"^[ \t]*#{1,6}(?=[ \t])", re.MULTILINE)
_CHECKBOX = re.compile(r"^([ \t]*[-*+][ \t]+)\[[xX✓✔]\](?=[ \t])", re.MULTILINE)
_NUMBER_SYMBOL = re.compile(r"^([ \t]*)(?:[①-⑳]|\d\ufe0f?\u20e3|🔟)", re.MULTILINE)
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_EMPTY = re.compile(r"\[\s*\]|\{\s*\}")
# Signs that negate the word behind them: "Ann: -knave", "!knave". A sign with space on both sides is punctuation.
_SIGN = re.compile(r"(?<=\S)[ \t]+[*_`\"'(\[{]*+[-+–−\u2010\u2011](?=[^\s\-–>])|(?<!\S)!|!(?=[^\s\"'*_`)\]}|])")
# Latin letters that case folding maps to others. Letters of other scripts are never mapped to Latin ones.
_LOOK_ALIKE = re.compile("[\u017f\ufb00-\ufb06]")

# TeX that only sets text -> what remains of it. Other commands (\\neg, \\cancel, \\phantom) are refused as unknown.
_TEX_ROWS = "itemize|enumerate|cases|aligned|align\\*?|gathered"
_TEX_COLUMNS = "array|tabular|[bpv]?matrix"
_TEX_FONTS = (
    "text|textbf|textit|textrm|textsf|texttt|mathrm|mathbf|mathit|mathsf|operatorname|emph|underline|boxed|fbox"
)
_TEX = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (rf"\\begin\s*\{{(?:{_TEX_ROWS}|(?:{_TEX_COLUMNS})\}}(?:\{{[lcr|\s]*)?)\}}|\\hline\b", "\n"),
        (rf"\\end\s*\{{(?:{_TEX_ROWS}|{_TEX_COLUMNS})\}}|\\\\", "\n"),
        (r"\\item\b", "\n- "),
        (rf"\\(?:{_TEX_FONTS})(?=\s*\{{)|\\(?:left|right|displaystyle)\b|\\[()\[\]]|\$|\\(?=[{{}}&])", ""),
        (r"\\(?:quad|qquad)\b|\\[,;: ]", " "),
        (r"\\(?:to|rightarrow|Rightarrow|longrightarrow|mapsto)\b", "→"),
        (r"\\(?:emptyset|varnothing)\b", "∅"),
        (r"\\(?:land|wedge)\b", "∧"),
        (r"\\therefore\b", "∴"),
        (r"\\colon\b", ":"),
    )
)
_TEX_ALIGNED = re.compile(rf"\\begin\s*\{{(?:{_TEX_ROWS})\}}")  # "&" is where the lines are aligned
_TEX_TABLE = re.compile(rf"\\begin\s*\{{(?:{_TEX_COLUMNS})\}}")

_TOKEN = re.compile(
    f"""
    \\n | \\.{{2,}} | := | -+> | =+> | ={{2,}} | [-–—]+ | /{{2,}}
    | 's(?![^\\W_]) | (?<=[^\\W_])'(?=[^\\W_])
    | [{UNSPACED}] | [^\\W_{UNSPACED}]+
    | [^\\s*_`"'\\[\\]{{}}]
    """,
    re.VERBOSE,
)

# Kind -> its phrases. The longest phrase that matches is taken.
PHRASES = {
    "is": "is; turns out to be; is found to be; is identified as; 是; 为; 就是; 一定是; 必须是; 必定是",
    "are": "are; turn out to be; are found to be; are identified as; 都是; 均为; 均是; 是; 为; "
    "就是; 一定是; 必须是; 必定是",
    "must": "must; has to; have to",
    "be": "be",
    "possessive": "'s",
    "each": "both; all; each; 都",
    "everyone": "everyone; everybody; all; both; they; 所有人; 每个人; 大家; 他们",
    "rest": "other; others; rest; remaining; remainder; everyone else; everybody else; all others; "
    "其他; 其他人; 其他的人; 其余; 其余人; 其余的人; 剩下的人",
    "except": "except; except for; but; apart from; other than",
    "them": "of them; among them; out of them; of the people; of the inhabitants; of the islanders; on the island; "
    "of the puzzle; of this puzzle; to the puzzle; to this puzzle; of each person; for each person",
    "of": "of",
    "among": "among; out of; of",
    "only": "only; sole; 只有",
    "none": "none; nobody; no one; ∅; 无; 没有; 没有人",
    "no": "no",
    "there": "there is; there are",
    "article": "a; an; the; 一; 一个; 一名; 一位",
    "as": "as",
    "same": "so",
    "too": "too; as well",
    "adverb": "exactly; also; so; therefore; thus; hence; finally; indeed; certainly; definitely; clearly; obviously; "
    "necessarily; consequently; likewise; in fact; ∴; 因此; 所以; 那么; 故",
    "comma": ",; ，; 、",
    "and": "and; &; ∧; 和; 与; 及; 以及; 并且; 且",
    "or": "or; vs; versus",
    "slash": "/",
    "stop": ".; ;; !; 。; ；; ！",
    "newline": "\n",
    "join": "while; whereas; but; also; then; however; on the other hand; 而; 而且",
    "not": "not; rather than; instead of; 不是; 而不是; 而非",
    "open": "(; （",
    "close": "); ）",
    "dash": "-; --; ---; –; —; ——",
    "bullet": "-; –; —; •; ·; +; ‣; ▪; ●; ◦; ○; ■; ◆; ◇; ▶; ►; ▸; ➤; ➜; ➡; ➡\ufe0f; ★; ✦; 👉; 🔹; 🔸; →; ->; =>",
    "check": "✓; ✔; ✅; ☑; ✓\ufe0f; ✔\ufe0f; ✅\ufe0f; ☑\ufe0f",
    "cross": "✗; ✘; ❌; ✗\ufe0f; ✘\ufe0f; ❌\ufe0f",
    "pair": ":; ：; :=; =; ==; ->; -->; =>; ==>; →; ⇒; ⟶; ↦",
    "cell": "|",
    "truth": "tells the truth; tell the truth; always tells the truth; always tell the truth; telling the truth; "
    "truth-teller; truth teller; truth-tellers; truth tellers; truthful; always truthful; honest; "
    "always honest; 说真话; 总是说真话",
    "lie": "lies; lie; always lies; always lie; tells lies; tell lies; always tells lies; always tell lies; liar; "
    "liars; lying; always lying; dishonest; 说谎; 总是说谎; 说假话; 总是说假话",
    "who": "who; 他; 她",
    "people": "person; people; persons; character; characters; inhabitant; inhabitants; islander; islanders; "
    "resident; residents; individual; individuals",
    "ones": "one; ones",
    "name-label": "name; names; person; people; character; inhabitant; islander; resident; 姓名; 名字; 人物",
    "number-label": "#; №",
    "role-label": "role; type; identity; kind; status; 身份; 角色",
    "respectively": "respectively",
    "heading-noun": "answer; answers; solution; solutions; result; results; role; roles; identity; identities; "
    "assignment; assignments; conclusion; summary; 答案; 最终答案; 结论; 综上; 综上所述",
    "determiner": "the; my; our; this; these",
    "adjective": "final; complete; full; role; correct; consistent; valid; unique",
    "here": "here is; here are; here's",
    "follows": "as follows; follows; following; the following",
    "that": "that",
    "we": "we; i",
    "can": "can",
    "conclude": "have; conclude; find; deduce; get; obtain; determine",
    "in-short": "in this puzzle; it follows; it turns out; this means; in conclusion; in summary; to conclude; "
    "to summarize; to sum up; overall",
    "based": "based on; from; given; after analyzing; by analyzing",
    "basis": "statement; statements; information; clues; analysis; reasoning; given; above",
    "heading": "of; for; each; every; list; table; island; puzzle; in; on; who; is; are",
}


COUNTS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


class RoleToken(NamedTuple):
    """A phrase of the answer."""

    kinds: dict[str, int]  # kind -> person index for "name", role index for "role" and "roles", a number, else -1
    text: str
    first: bool  # whether it is the first of its line, not counting bullets

    @property
    def role(self) -> int | None:
        """The role index of a role word, singular or plural; None for other phrases."""
        return self.kinds.get("role", self.kinds.get("roles"))


Lexicon = dict[str, list[tuple[tuple[str, ...], dict[str, int]]]]  # first word -> phrases, longest first


def _plain(text: str, checkboxes: bool) -> str:
    """`text` without decoration that covers more than one character. checkboxes: whether "- [x]" is a list marker."""
    text = _ESCAPE.sub(lambda match: chr(int(match.group(1), 16)), text.strip()).replace("\r\n", "\n")
    if "```" in text:
        is_data = _DATA_FENCE.search(text)
        text = _FENCE.sub("", text)
        text = text if is_data else _HEADING_MARK.sub("", text)
    elif "#" in text:
        text = _HEADING_MARK.sub("", text)
    text = _RULE_LINE.sub("", text)
    text = text if text.isascii() else _NUMBER_SYMBOL.sub(r"\1- ", text)
    if "\\" in text or "$" in text:
        text = (
            text.replace("&", "|")
            if _TEX_TABLE.search(text)
            else re.sub(r"(?<!\\)&", " ", text)
            if _TEX_ALIGNED.search(text)
            else text
        )
        for pattern, replacement in _TEX:
            text = pattern.sub(replacement, text)
    if "[" in text or "{" in text:
        text = _EMPTY.sub("∅", _CHECKBOX.sub(r"\1✓", text) if checkboxes else text)
    return text


def _words(text: str) -> tuple[str, ...]:
    return tuple(_TOKEN.findall(fold(text)))


def _plurals(role: str) -> list[str]:
    forms = [role + "s", role + "es"]
    if role.endswith("y"):
        forms.append(role[:-1] + "ies")
    if role.endswith(("f", "fe")):
        forms.append(role.removesuffix("e").removesuffix("f") + "ves")
    if role.endswith("man"):
        forms.append(role[:-3] + "men")
    return forms


def _add(lexicon: Lexicon, key: tuple[str, ...], kind: str, value: int) -> None:
    """Add a phrase, or one more kind of a phrase. The first value of a kind stays."""
    if not key:
        return
    entries = lexicon.setdefault(key[0], [])
    for known, kinds in entries:
        if known == key:
            kinds.setdefault(kind, value)
            return
    entries.append((key, {kind: value}))
    entries.sort(key=lambda entry: -len(entry[0]))


@lru_cache(maxsize=1)
def _common_lexicon() -> Lexicon:
    lexicon: Lexicon = {}
    for kind, listed in PHRASES.items():
        for phrase in listed.split("; "):
            _add(lexicon, ("\n",) if phrase == "\n" else _words(phrase), kind, -1)
    for number, word in enumerate(COUNTS, start=1):
        _add(lexicon, (word,), "count", number)
    for letter in (*"abcdefghijklmnopqrstuvwxyz", "ii", "iii", "iv", "vi", "vii", "viii", "ix"):
        _add(lexicon, (letter,), "letter", -1)
    return lexicon


@lru_cache(maxsize=4096)
def lexicon_of(names: tuple[str, ...], roles: tuple[str, str]) -> Lexicon:
    """The phrases of an answer to a puzzle, with its names and role words."""
    lexicon = dict(_common_lexicon())
    specific = [(_words(name), "name", index) for index, name in enumerate(names)]
    for index, role in enumerate(roles):
        specific.append((_words(role), "role", index))
        specific += [(_words(plural), "roles", index) for plural in _plurals(role)]
    for first in {key[0] for key, _, _ in specific if key}:
        lexicon[first] = [(key, dict(kinds)) for key, kinds in lexicon.get(first, [])]
    for key, kind, value in specific:
        _add(lexicon, key, kind, value)
    return lexicon


def tokenize(text: str, lexicon: Lexicon, names: tuple[str, ...]) -> list[RoleToken] | str:
    """The tokens of `text` (NFC), or the first part of it that is neither decoration nor a known phrase."""
    text = _plain(text, checkboxes="X" not in names)
    unread = _SIGN.search(text) or _LOOK_ALIKE.search(text)
    if unread:
        return unread.group().strip()
    words = _words(text)
    tokens, at, first = [], 0, True
    while at < len(words):
        found = _longest(words, at, lexicon)
        if found is None:
            return words[at]
        size, kinds = found
        if "bullet" in kinds:
            kinds = {"bullet": -1} if first else _without(kinds, "bullet")
        if "name" in kinds:
            kinds = _spell(kinds, text, slice(at, at + size), names[kinds["name"]])
        if not kinds:
            return words[at]
        tokens.append(RoleToken(kinds, " ".join(words[at : at + size]), first))
        first = "newline" in kinds or (first and ("bullet" in kinds or "cell" in kinds))
        at += size
    return tokens


def _longest(words: tuple[str, ...], at: int, lexicon: Lexicon) -> tuple[int, dict[str, int]] | None:
    """The number of words and the kinds of the longest phrase, or of the number, that starts here."""
    for key, kinds in lexicon.get(words[at], ()):
        if words[at : at + len(key)] == key:
            return len(key), kinds
    return (1, {"number": int(words[at])}) if words[at].isdecimal() and len(words[at]) <= 3 else None


def _without(kinds: dict[str, int], removed: str) -> dict[str, int]:
    return {kind: value for kind, value in kinds.items() if kind != removed}


def _spell(kinds: dict[str, int], text: str, span: slice, name: str) -> dict[str, int]:
    """The kinds of a token that is a name, with the kind "spelled" if it can't be mistaken for another phrase.

    A name that is also another phrase is read as a name only in its own letter case, or in a text that is all in one
    case: "B is a knight and a knave" doesn't name a person "A".
    """
    if kinds.keys() <= {"name", "letter"}:
        return kinds | {"spelled": -1}
    capitals = text == text.upper()
    if not capitals and _written(text)[span] == _written(name):
        return kinds | {"spelled": -1}
    return kinds if capitals or text == text.lower() else _without(kinds, "name")


@lru_cache(maxsize=64)
def _written(text: str) -> tuple[str, ...]:
    """The words of `text` in their own letter case."""
    return tuple(_TOKEN.findall(straighten(text)))

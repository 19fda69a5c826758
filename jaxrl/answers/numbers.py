"""Read the number that a text states: a final answer of a person or a model, or the target in a data file.

The same function reads both, so a target that is accepted when a file is read is judged in the same way. A text that
could mean two things is unreadable; no part of a number is read as the number.

- Digits of any script; one grouping (`1,234`, `1,00,000`, `1 234`, `1'234`, `1_234`, `1{,}234`) or none; a decimal
  point (`.5`, `5.`); fractions and mixed numbers (`3/4`, `\\frac{3}{4}`, `1 1/2`, `1½`); whole powers (`2^10`, `10³`);
  `1e3`, `3 \\times 10^4`, `3 million`. Values are exact: 0.75 is 3/4, and 0.333 is not 1/3.
- Any minus sign directly before the number or its currency, or `minus` and `negative`.
- Currencies, percent signs and units are allowed and not judged: `$18`, `18%` and `18 eggs` are 18.
- Around it: Markdown, TeX, words. With several numbers, the answer is the one in `\\boxed{}`, after `####`, after
  "answer is", "result is", "total is", or after the last `=`; all statements of an answer must agree.
- Unreadable: decimal commas, ranges, ratios, times and dates, ordinals, unsigned numbers in brackets, expressions that
  are not worked out, number words, bounds and hedges ("about", "at least", "or", "maybe"), negations, a question mark.
  Words are understood in English, and a few in other languages.
"""

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from jaxrl.answers.numerals import BOX, GLUE, NUMERAL, UnreadableNumberError, numeral_value, plain_notation

MAX_LENGTH = 2000  # characters of an answer part; longer ones are unreadable


class NumberReading(NamedTuple):
    """The exact value of a text, or the reason why it is unreadable."""

    value: Fraction | None
    reason: str = ""


def read_number(text: str) -> NumberReading:
    """The number that `text` states; see the module."""
    if len(text) > MAX_LENGTH:
        return NumberReading(None, f"the answer has more than {MAX_LENGTH} characters")
    return _read(text)


@lru_cache(maxsize=4096)
def _read(text: str) -> NumberReading:
    try:
        return NumberReading(_stated(*_outline(plain_notation(text))))
    except UnreadableNumberError as error:
        return NumberReading(None, str(error))


# An outline is a text with one of these characters in place of each number. "$" and GLUE are left out.
_UNSIGNED, _SIGNED = "\x02", "\x03"
_ANY = f"[{_UNSIGNED}{_SIGNED}]"

_CURRENCY = re.compile(
    r"\b(?:(?:US|AU|CA|HK|NZ|SG|A|C|R)(?=\$)|(?:USD|EUR|GBP|INR|CNY|RMB|Rs\.?)[ ]?(?=[-−]?[ ]?\.?\d))"
)
_LEFT = rf"[{GLUE}$€£¥₹₩]"
# A hyphen is a sign where no word or number ends before it. With a space behind it, it could be a dash, except after
# "=" and an opening bracket; U+2212 is never a dash.
_SIGN = re.compile(
    rf"""
    (?: (?<![^\s(=:,;"'是为{BOX[0]}{GLUE}$€£¥₹₩])[-−–+]
      | (?<=[=(])[ ]?[-–+][ ]
      | (?<![^\s(=:])[ ]?−[ ]
      | \b(?:minus|negative)[ ]?
    )?
    {_LEFT}*(?:(?<=[$€£¥₹₩])[ ])?$
    """,
    re.IGNORECASE | re.VERBOSE,
)
_UNIT_SYMBOLS = """
kg g mg lb lbs oz km m cm mm mi ft in yd l L ml mL h hr hrs min mins s sec secs ms mph kph kmh kW C F
USD EUR GBP INR CNY RMB
"""
_UNITS = frozenset(_UNIT_SYMBOLS.split())
_UNIT_LETTERS = frozenset("aAIghlmsCFL")  # and "a", "I"; other single letters are variables
_GLUED_WORD = re.compile(r"[^\W\d_]+(?:²|³)?")
_UNSPACED_LETTER = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]")


def _outline(text: str) -> tuple[str, list[Fraction]]:
    """The outline of a text in plain notation, and its numbers in order."""
    text = _CURRENCY.sub("$", text)
    parts, values, end = [], [], 0
    for match in NUMERAL.finditer(text):
        before = text[end : match.start()]
        mark = _SIGN.search(text, max(end, match.start() - 24), match.start())
        sign = mark.group().strip(f"{GLUE}$€£¥₹₩ ").lower() if mark else ""
        kept = before[: len(before) - len(mark.group())] if mark else before
        value = numeral_value(match)
        _check_left(text[: end + len(kept)], match.group())
        _check_right(text, match.end(), money=bool(mark and re.search("[$€£¥₹₩]", mark.group())))
        negative = bool(sign) and sign != "+"
        if negative and match["power"] and int(match["power"].lstrip("-−–+")) % 2 == 0:
            raise UnreadableNumberError("the sign before a power can be read in two ways")
        parts += [kept, _SIGNED if sign else _UNSIGNED]
        values.append(-value if negative else value)
        end = match.end()
    parts.append(text[end:])
    return re.sub(f"[{GLUE}$€£¥₹₩¢%°]", "", "".join(parts)), values


def _check_left(before: str, numeral: str) -> None:
    """Raises UnreadableNumberError if a numeral continues a word or another numeral."""
    last = before.rstrip(f"{GLUE}$")[-1:]
    if last and (last in ".,_^\\" or last.isdigit() or (last.isalpha() and not _UNSPACED_LETTER.match(last))):
        raise UnreadableNumberError(f"{(before[-10:] + numeral)[:40]!r} is not a number")


def _check_right(text: str, end: int, *, money: bool) -> None:
    """Raises UnreadableNumberError if what follows a numeral changes its value."""
    rest = text[end : end + 24].lstrip(GLUE + "$")
    word = _GLUED_WORD.match(rest)
    if word and not _UNSPACED_LETTER.match(rest):
        unit = word.group().rstrip("²³")
        if unit not in _UNITS or (money and unit == "m"):  # $5m are five million
            raise UnreadableNumberError(f"{unit[:20]!r} after a number is not a known unit")
    if rest.startswith(("!", "‰", "..", "…")):
        raise UnreadableNumberError(f"{rest[0]!r} after a number changes its value")


# The statement

_MARK = re.compile(
    rf"""
    \#{{4}} | {BOX[0]} | 答案[是为]?[:：]?
    | \b(?:answer|result|total)s?\b (?:[ ]to[ ][^.\n=]{{1,80}}?)? \s*(?:is|are|:|=)(?![a-z])[\s:=]*
    """,
    re.IGNORECASE | re.VERBOSE,
)


def _stated(outline: str, values: list[Fraction]) -> Fraction:
    if not values:
        raise UnreadableNumberError("the answer contains no number")
    _check_words(outline)
    head, *marked = _split_at_marks(outline, values)
    statements = [piece for piece in marked or [head] if piece[1]]
    if not statements:
        raise UnreadableNumberError("no number follows the announcement of the answer")
    answers = {_concluded(text, found) for text, found in statements}
    if marked:  # what precedes the first mark is how the answer was found, unless it is another answer
        answers |= _bare_numbers(*head)
    if len(answers) > 1:
        raise UnreadableNumberError("there is more than one answer")
    return answers.pop()


def _split_at_marks(outline: str, values: list[Fraction]) -> list[tuple[str, list[Fraction]]]:
    """The text before the first mark, then the text after each mark, each with its numbers."""
    numbers = [match.start() for match in re.finditer(_ANY, outline)]
    marks = list(_MARK.finditer(outline))
    starts, ends = [0, *(mark.end() for mark in marks)], [*(mark.start() for mark in marks), len(outline)]
    return [
        (outline[start:end], [value for at, value in zip(numbers, values, strict=True) if start <= at < end])
        for start, end in zip(starts, ends, strict=True)
    ]


def _bare_numbers(text: str, values: list[Fraction]) -> set[Fraction]:
    """The numbers that are a whole line or sentence."""
    found, used = set(), 0
    for sentence in re.split(r"[.;\n]", text):
        count = len(re.findall(_ANY, sentence))
        if count == 1 and not re.search(r"[\w=]", sentence):
            found.add(values[used])
        used += count
    return found


_WORKING = re.compile(r"[-−–+*/^×÷·:]")
_HARMLESS = re.compile(
    rf"(?<=[^\W\d_])[-–—/](?=[^\W\d_])|(?<={_ANY})[-/](?=[^\W\d_])|(?<!{_ANY}):|[ ][–—][ ](?=[^\W\d_])"
)


def _concluded(text: str, values: list[Fraction]) -> Fraction:
    """The number after the last "=" of a statement, or its only number."""
    *workings, last = re.split(r"=|\bequals\b|\bis equal to\b", text, flags=re.IGNORECASE)
    if len(re.findall(_ANY, last)) != 1:
        raise UnreadableNumberError("it is not clear which number is the answer")
    if re.search(r"[-−–—+*/^×÷·:\[\]]", _HARMLESS.sub(" ", last)):
        raise UnreadableNumberError("the answer is an expression that is not worked out")
    used = 0
    for working in workings:
        count = len(re.findall(_ANY, working))
        if count == 1 and not _WORKING.search(_HARMLESS.sub(" ", working)) and values[used] != values[-1]:
            raise UnreadableNumberError("two different numbers are called equal, or two names have values")
        used += count
    return values[-1]


_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_QUALIFYING_WORDS = """
not no never neither nor none without except besides but cannot wrong incorrect false untrue
maybe perhaps probably possibly likely guess unsure think believe suppose assuming approximately approx roughly
nearly almost estimate estimated circa ca ish somewhere or either between
if unless otherwise actually wait sorry correction instead rather ignore cancel scratch oops unknown undefined
half halves quarter quarters third thirds fourth fourths fifth fifths sixth sixths eighth eighths tenth tenths
hundredth hundredths thousandth thousandths dozen dozens gross double twice triple thrice
hundred hundreds thousand thousands million millions billion billions trillion zero two three four five six seven
eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty
sixty seventy eighty ninety squared cubed root sqrt factorial reciprocal inverse opposite plus minus negative pi
infinity infinite nan am pm neg kidding joking mistake error invalid
something exceeds reversed backwards swapped
ungefahr etwa zirka rund kaum mindestens hochstens vielleicht wahrscheinlich falsch
environ presque peut probablement faux ni casi quizas quiza unos unas probablemente falso
almeno quasi forse quase talvez provavelmente
почти около примерно возможно наверное неверно
moins menos meno минус мінус マイナス 마이너스
nicht kein keine pas jamais sin ohne sans nao não не нет oder
"""
_QUALIFIERS = frozenset(_QUALIFYING_WORDS.split())
_BOUNDS = re.compile(
    rf"\b(?:far|different) from\b|\b(?:max|maximum|minimum) {_ANY}|{_ANY} max(?:imum)?\b|"
    r"\bat (?:least|most|best|worst)\b|\b(?:could|may|might) (?:also )?be\b|"
    r"\b(?:about|around|over|under|above|below|beyond|near|nowhere|close to|upwards|than|up to|square|cube|log|till|"
    r"until)\b"
    rf"[^.\n={_UNSIGNED}{_SIGNED}]*{_ANY}"
    rf"|\b(?:weniger als|mehr als|fast|plus de|au plus|más de|a lo sumo|più di|mais de|cerca de|более|менее|больше|"
    rf"меньше) {_ANY}",
    re.IGNORECASE,
)
_EAST_ASIAN = re.compile(  # Chinese, Japanese, Korean
    r"[不非没沒無无未别別勿约約或几幾负負半]|大概|左右|可能|也许|至少|至多|超过|分之"
    rf"|{_ANY}[ ]?[百千万萬億亿兆多余点點]|第{_ANY}"
    r"|ない|ません|以上|以下|以内|未満|じゃな|くらい|ぐらい|ほど|ほぼ|およそ|たぶん|おそらく"
    rf"|약[ ]?{_ANY}|아니|아닙|않|정도|이상|이하|미만|초과|대략|아마"
)
_NAME_BEFORE_EQUALS = re.compile(
    rf"(?:^|[\n,;.:{BOX[0]}]|\b(?:and|so|then|hence|thus|therefore)\b)\s*[a-z]\s*(?=:?=)", re.IGNORECASE
)
_SHORT_WORDS = re.compile(r"\bil y a\b|\b[éèà]\b|(?<![^\s])[вкуис](?=\s+[а-яё]{2})", re.IGNORECASE)  # no variables
_STRANGE = re.compile(r"[<>≈≠≤≥~|±∓√∞∑∏∫?？¬≅≡⇒→&@\\]")
_BRACKETED = re.compile(rf"\([\s$]*{_UNSIGNED}[\s.]*\)|\w\({_ANY}")


def _check_words(outline: str) -> None:
    """Raises UnreadableNumberError for words and signs that qualify a number."""
    strange = _STRANGE.search(outline)
    if strange:
        raise UnreadableNumberError(f"{strange.group()!r} qualifies the number")
    if _BRACKETED.search(outline):
        raise UnreadableNumberError("a number in brackets can mean a negative number or an argument")
    bound = _BOUNDS.search(outline) or _EAST_ASIAN.search(outline)
    if bound:
        raise UnreadableNumberError(f"{bound.group()[:20].rstrip(_UNSIGNED + _SIGNED)!r} qualifies the number")
    for word in _WORD.findall(_SHORT_WORDS.sub(" ", _NAME_BEFORE_EQUALS.sub(" ", outline))):
        folded = _fold(word)
        variable = len(word) == 1 and word not in _UNIT_LETTERS and not _UNSPACED_LETTER.match(word)
        if variable or folded in _QUALIFIERS or folded.endswith("n't"):
            raise UnreadableNumberError(f"{word!r} qualifies the number")
        if not folded.isascii() and re.search("[a-z]", folded) and not _UNSPACED_LETTER.search(folded):
            raise UnreadableNumberError(f"{word!r} mixes letters of several scripts")


def _fold(word: str) -> str:
    """A word without differences of letter case, accents and styles of letters."""
    if word.isascii():
        return word.lower()
    letters = unicodedata.normalize("NFKD", word.casefold())
    return unicodedata.normalize("NFC", "".join(char for char in letters if not unicodedata.combining(char)))

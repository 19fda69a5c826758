"""Unicode normalization and splitting into words, in linear time."""

import itertools
import re
import unicodedata

# Combining marks. The three Tibetan vowels added below are starters that decompose into marks.
_MARKS = "".join(chr(code) for code in range(0x300, 0x1F000) if unicodedata.combining(chr(code)))
_MARK = f"[{re.escape(_MARKS)}\u0f73\u0f75\u0f81]"
_MARK_RUN = re.compile(f"{_MARK}(?<!{_MARK}{_MARK}){_MARK}{{11,}}")  # a run, from its start
MAX_MARKS = 30  # the limit of the Unicode stream-safe text format (UAX 15); no language needs as many

# Scripts written without spaces: each character is a word.
UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_WORD = re.compile(f"[{UNSPACED}]|[^\\W_{UNSPACED}]+")

_QUOTES = {ord(char): "'" for char in "\u2019\u02bc\u2018\u00b4"} | {ord(char): "-" for char in "\u2010\u2011"}
_QUOTES |= {ord(char): '"' for char in "\u201c\u201d\u201e\u00ab\u00bb\u300c\u300d"}


def has_mark_flood(text: str) -> bool:
    """Whether a letter has more than 30 combining marks; the same for NFC and NFD."""
    if text.isascii():
        return False
    for run in _MARK_RUN.finditer(text):
        # 40 characters are enough; longer runs are not decomposed, so the cost is bounded.
        marks = "".join(unicodedata.normalize("NFD", char) for char in run.group()[:40])
        letter = unicodedata.normalize("NFD", text[max(run.start() - 1, 0)])  # may contain marks
        if _leading_marks(marks) + _leading_marks(letter[::-1]) > MAX_MARKS:
            return True
    return False


def _leading_marks(decomposed: str) -> int:
    return sum(1 for _ in itertools.takewhile(unicodedata.combining, decomposed))


def normalize(text: str) -> str:
    """NFC of `text`, which must have no mark flood: the cost of sorting marks is quadratic."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def fold(text: str) -> str:
    """`text` without differences of letter case, quotes and hyphens, to compare words."""
    if text.isascii():
        return text.lower()
    return straighten(unicodedata.normalize("NFC", text.casefold()))


def straighten(text: str) -> str:
    """`text` with plain quotes and hyphens."""
    return text if text.isascii() else text.translate(_QUOTES)


def words(text: str) -> list[str]:
    """Folded words of `text`; in scripts written without spaces each character is a word."""
    return _WORD.findall(fold(text))

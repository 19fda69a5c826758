"""Unicode normalization and splitting into words, in linear time."""

import itertools
import re
import unicodedata

from jaxrl.answers.text import UNSPACED, fold

# Combining marks. The three Tibetan vowels added below are starters that decompose into marks.
_MARKS = "".join(chr(code) for code in range(0x300, 0x1F000) if unicodedata.combining(chr(code)))
_MARK = f"[{re.escape(_MARKS)}\u0f73\u0f75\u0f81]"
_MARK_RUN = re.compile(f"{_MARK}(?<!{_MARK}{_MARK}){_MARK}{{11,}}")  # a run, from its start
MAX_MARKS = 30  # the limit of the Unicode stream-safe text format (UAX 15); no language needs as many

_WORD = re.compile(f"[{UNSPACED}]|[^\\W_{UNSPACED}]+")


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


def words(text: str) -> list[str]:
    """Folded words of `text`; in scripts written without spaces each character is a word."""
    return _WORD.findall(fold(text))

"""Unicode text without differences that carry no meaning: letter case, and forms of quotes and hyphens."""

import unicodedata

# Scripts written without spaces: each character is a word.
UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"

_PLAIN = {ord(char): "'" for char in "\u2019\u02bc\u2018\u00b4"} | {ord(char): "-" for char in "\u2010\u2011"}
_PLAIN |= {ord(char): '"' for char in "\u201c\u201d\u201e\u00ab\u00bb\u300c\u300d"}


def fold(text: str) -> str:
    """`text` without differences of letter case, quotes and hyphens, to compare words."""
    if text.isascii():
        return text.lower()
    return straighten(unicodedata.normalize("NFC", text.casefold()))


def straighten(text: str) -> str:
    """`text` with plain quotes and hyphens."""
    return text if text.isascii() else text.translate(_PLAIN)

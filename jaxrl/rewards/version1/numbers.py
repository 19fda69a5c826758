"""Version 1 of the reader of numbers: the last number of a text."""

import re
from decimal import Decimal

_NUMBER = re.compile(r"-?(?<![\d.])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\d])", re.ASCII)
_NUMBER_WINDOW = 4096


def last_number(text: str) -> Decimal | None:
    """The last number in the last 4,096 characters of `text`, or None."""
    found = _NUMBER.findall(text[-_NUMBER_WINDOW:])
    return Decimal(found[-1].replace(",", "")) if found else None

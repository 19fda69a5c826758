"""One written numeral to its exact value, and texts in a plain notation in which numerals can be found."""

import re
import unicodedata
from fractions import Fraction

MAX_DIGITS = 1000
GLUE = "\x01"  # replaces markup: it ends a numeral, and does not separate groups of digits as a space does
BOX = "⟦⟧"


class UnreadableNumberError(ValueError):
    """The reason why a text is not read as a number."""


ATOM = r"\.?+\d(?:[.,'_]?+\d)*+"  # the longest run of digits and separators, well formed or not
NUMERAL = re.compile(
    rf"""
    (?P<atoms>{ATOM}(?:\ {ATOM})*+)
    (?: \ ?[/⁄]\ ?(?P<over>[-−–]?{ATOM})
      | [eE](?P<exponent>[-−–+]?\d++)
      | \ ?[×·*x]\ ?10\ ?(?:\^|\*\*)\ ?(?P<ten>[-−–+]?\d++)
      | \ ?(?:\^|\*\*)\ ?(?P<power>[-−–+]?{ATOM})
      | \ (?P<scale>hundred|thousand|million|billion|trillion)\b
    )?+
    """,
    re.VERBOSE | re.ASCII | re.IGNORECASE,
)
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_DECIMAL = r"(?:\.\d+)?"
_WELL_FORMED = re.compile(
    rf"""
    \d+{_DECIMAL} | \.\d+
    | [1-9]\d{{0,2}}(?P<mark>[,'_])\d{{3}}(?:(?P=mark)\d{{3}})*{_DECIMAL}  # 1,234,567
    | [1-9]\d?(?:,\d\d)+,\d{{3}}{_DECIMAL}  # 12,34,567, the Indian grouping
    """,
    re.VERBOSE | re.ASCII,
)
_SPACED = re.compile(rf"[1-9]\d{{0,2}}(?: \d{{3}})+{_DECIMAL}", re.ASCII)  # 1 234 567


def numeral_value(match: re.Match[str]) -> Fraction:
    """The value of a match of NUMERAL, without a sign. Raises UnreadableNumberError."""
    if len(match.group()) > 4 * MAX_DIGITS or sum(map(str.isdigit, match.group())) > MAX_DIGITS:
        raise UnreadableNumberError(f"the number has more than {MAX_DIGITS} digits")
    atoms, over = match["atoms"], match["over"]
    if over is not None:
        return _quotient(atoms.split(" "), over)
    value = _atom(atoms.replace(" ", "") if _SPACED.fullmatch(atoms) else atoms)
    if match["scale"]:
        return value * _SCALES[match["scale"].lower()]
    if match["power"]:
        return _power(value, atoms, match["power"])
    exponent = match["exponent"] or match["ten"]
    return value * _power(Fraction(10), "10", exponent) if exponent else value


def _atom(text: str) -> Fraction:
    if not _WELL_FORMED.fullmatch(text):
        raise UnreadableNumberError(f"{text[:40]!r} is not a number in a known notation")
    return Fraction(re.sub("[,'_]", "", text))


def _signed(text: str) -> Fraction:
    return -_atom(text[1:]) if text[0] in "-−–" else _atom(text.removeprefix("+"))


def _quotient(atoms: list[str], over: str) -> Fraction:
    """3/4, or a mixed number such as 1 3/4."""
    top, bottom = _atom(atoms[-1]), _signed(over)
    if bottom == 0:
        raise UnreadableNumberError("the number is divided by 0")
    if len(atoms) == 1:
        return top / bottom
    if len(atoms) == 2 and all(map(str.isdigit, (*atoms, over))) and top < bottom:
        return _atom(atoms[0]) + top / bottom
    raise UnreadableNumberError(f"{' '.join(atoms)[:40]!r} before a fraction is not a whole number")


def _power(base: Fraction, text: str, exponent: str) -> Fraction:
    power = _signed(exponent)
    if power.denominator != 1 or (base == 0 and power <= 0):
        raise UnreadableNumberError(f"the power of {exponent[:40]} has no exact value")
    if abs(power) * len(text) > MAX_DIGITS:
        raise UnreadableNumberError(f"the number has more than {MAX_DIGITS} digits")
    return base**power.numerator


# Notation

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f⟦⟧]")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_SUPERSCRIPT_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_CHARACTERS = {
    ord("－"): "−",
    ord("﹣"): "−",
    ord("˗"): "−",
    ord("➖"): "−",
    ord("∕"): "/",
    ord("٬"): ",",
    ord("٫"): ".",
}
_CHARACTERS |= (
    {ord(char): "-" for char in "‐‑‒"} | {ord(char): "'" for char in "’‘ʼ＇"} | {ord("٪"): "%", ord("﹪"): "%"}
)
_CHARACTERS |= (
    {ord(char): "×" for char in "✕✖⨯"} | {ord(char): "·" for char in "⋅∙•"} | {ord(char): '"' for char in "“”„"}
)
_CHARACTERS |= {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if code not in _CHARACTERS}


_CHARACTERS_READ = "°⁄−×÷±·≈≠" + "".join(map(chr, _CHARACTERS))


def plain_notation(text: str) -> str:
    """`text` with ASCII digits, without TeX and Markdown. Raises UnreadableNumberError for what could hide a digit."""
    if _CONTROL.search(text):
        raise UnreadableNumberError("the answer has control characters")
    if not text.isascii():
        text = _SUPERSCRIPT.sub(lambda found: "^" + found.group().translate(_SUPERSCRIPT_DIGITS), text)
        text = _ascii_digits(text).translate(_CHARACTERS)
    text = text.replace("\t", " ").replace("\r", "\n")
    text = _without_tex(text) if "\\" in text or "{" in text else text
    return _UNIT_POWER.sub(r"\1", _without_markdown(text))


def _ascii_digits(text: str) -> str:
    plain, script = [], None  # script: the code of the digit 0 of the last character, if that was a digit
    for char in text:
        digit, before = unicodedata.decimal(char, None), script
        script = None if digit is None else ord(char) - digit
        category = unicodedata.category(char)
        if digit is not None:
            if before not in (None, script):
                raise UnreadableNumberError("a number mixes digits of several scripts")
            plain.append(str(digit))
        elif category == "Zs":
            plain.append(" ")
        elif unicodedata.decomposition(char).startswith("<fraction>"):
            separator = " " if before is not None else ""
            plain.append(separator + unicodedata.normalize("NFKC", char))
        elif category == "Cf" or category == "Cs" or (category[0] == "M" and before is not None):
            raise UnreadableNumberError("the answer has invisible characters, or marks on a digit")
        elif category in ("No", "Nl", "So", "Sm") and not char.isascii() and char not in _CHARACTERS_READ:
            raise UnreadableNumberError(f"{char!r} is not read as a number or a sign")
        else:
            plain.append(char)
    return "".join(plain)


_UNIT_POWER = re.compile(rf"(?<![A-Za-z])((?:[A-Za-z]{{2,}}|m|s){GLUE}*)\^[23](?!\d)", re.ASCII)  # cm^2

_TEX_SPACE = re.compile(r"\{\\[,;: ]\}|\\[,;: ]|\\q?quad\b")
_TEX_NOTHING = re.compile(r"\\(?:!|left|right|displaystyle|bigl?|bigr|Bigl?|Bigr)(?![A-Za-z])")
_TEX_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|operatorname|mbox|emph|underline)\s*\{([^{}]*)\}"
)
_TEX_ARGUMENT = r"(?:\{\s*([-−–+]?[\d.,'_]+)\s*\}|(\d))"
_TEX_FRACTION = re.compile(rf"(\d?)\s*\\[dtc]?frac\s*{_TEX_ARGUMENT}\s*{_TEX_ARGUMENT}", re.ASCII)
_TEX_BOX = re.compile(r"\\f?box(?:ed)?\s*\{([^{}]*)\}")
_TEX_SYMBOLS = {
    r"\times": "×", r"\cdot": "·", r"\div": "÷", r"\pm": "±", r"\mp": "±", r"\approx": "≈", r"\sim": "≈", r"\ne": "≠",
    r"\neq": "≠", r"\le": "<", r"\leq": "<", r"\lt": "<", r"\ge": ">", r"\geq": ">", r"\gt": ">", r"\degree": "°",
    r"\pounds": "£", r"\euro": "€", r"\%": "%", r"\$": "$", r"\#": "#", r"\(": "$", r"\)": "$", r"\[": "$", r"\]": "$",
    r"\\": "\n", r"\_": "_", r"\&": "&", r"\boxed": r"\boxed", r"\fbox": r"\fbox",
}  # fmt: skip
_TEX_COMMAND = re.compile(r"\\(?:[A-Za-z]+|.|$)", re.DOTALL)


def _without_tex(text: str) -> str:
    text = _TEX_SPACE.sub(" ", _TEX_NOTHING.sub("", text.replace("{,}", ",")))
    text = _TEX_TEXT.sub(rf"{GLUE}\1{GLUE}", text)
    text = re.sub(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ\b)", "°", text)
    text = _TEX_FRACTION.sub(
        lambda found: f"{found[1] and found[1] + ' '}{found[2] or found[3]}⁄{found[4] or found[5]}", text
    )
    text = _TEX_COMMAND.sub(_tex_symbol, text)
    text = re.sub(r"\^\s*\{\s*([-−–+]?[\d.]+)\s*\}", r"^\1", text, flags=re.ASCII)
    text = _TEX_BOX.sub(rf"{BOX[0]}\1{BOX[1]}", text)
    if "\\" in text:
        raise UnreadableNumberError("the box is not closed or contains more than a number")
    return re.sub("[{}]", GLUE, text)


def _tex_symbol(command: re.Match[str]) -> str:
    if command.group() not in _TEX_SYMBOLS:
        raise UnreadableNumberError(f"the TeX command {command.group()[:20]} is not read as a part of a number")
    return _TEX_SYMBOLS[command.group()]


_HEADING = re.compile(r"^[ ]{0,3}#{1,3} ", re.MULTILINE)
_BULLET = re.compile(r"^ {0,8}[-*+·] (?=[^\W\d_*`$])", re.MULTILINE)  # before a word; before a digit it may be a sign
_EMPHASIS = re.compile(r"\*+|(?<![0-9A-Za-z])_+|_+(?![0-9A-Za-z])|`+")


def _without_markdown(text: str) -> str:
    """Replace markup by GLUE. Asterisks between numbers or between spaces are operators and stay."""
    text = _BULLET.sub("", _HEADING.sub("", text))
    kept = [match.span() for match in _EMPHASIS.finditer(text) if _is_operator(match)]
    marked = _EMPHASIS.sub(lambda match: match.group() if _is_operator(match) else GLUE, text)
    if any(text[slice(*span)] == "**" for span in kept) and text.count("**") > len(kept):
        raise UnreadableNumberError("** is markup or a power")
    return marked


def _is_operator(match: re.Match[str]) -> bool:
    if match.group()[0] != "*":
        return False
    before, after = match.string[: match.start()][-8:], match.string[match.end() :][:8]
    if before.endswith(" ") and after.startswith(" "):
        return True
    return bool(re.search(r"[\d)]\s*$", before, re.ASCII) and re.match(r"\s*[-−(.]?\d", after, re.ASCII))

"""Flags of commands that describe puzzles: the fields of `PuzzleSpec`."""

import argparse
from typing import Any

from data_gen.names import NAME_SETS
from data_gen.puzzle import OPERATORS
from data_gen.spec import WORDINGS, PuzzleSpec

DEFAULTS = PuzzleSpec(2)
PUZZLE_FLAGS = ("depth", "width", "operators", "hardness", "wording", "names", "first_person")


def add_puzzle_flags(group: argparse._ArgumentGroup) -> None:
    """Add --depth, --width, --operators, --hardness, --wording, --names, --first-person; None where not given."""
    add = group.add_argument
    add(
        "--depth",
        type=int,
        help=f"maximum nesting of operators, 1 to 4; 1: at most one operator in a statement ({DEFAULTS.depth})",
    )
    add("--width", type=int, help=f'maximum number of operands of "and" and "or" ({DEFAULTS.width})')
    add(
        "--operators",
        metavar="NAME=WEIGHT,...",
        help=f"sampling weights of {', '.join(OPERATORS)}; 0 for those that are not given (equal, both claims together "
        "as one operator)",
    )
    add("--hardness", metavar="LOW:HIGH", help="keep puzzles for which a simple solver opens this many branches (all)")
    add(
        "--wording",
        choices=WORDINGS,
        help="classic: knights and knaves, as in published puzzles; varied: many phrasings and role words; plain: one "
        f"phrasing for everything ({DEFAULTS.wording})",
    )
    add(
        "--names",
        choices=tuple(NAME_SETS),
        help=f"english: ASCII first names; world: also names in other scripts ({DEFAULTS.names})",
    )
    add(
        "--first-person",
        action=argparse.BooleanOptionalAction,
        help='whether speakers call themselves "I", not by their name (no)',
    )


def puzzle_fields(options: argparse.Namespace) -> dict[str, Any]:
    """The flags that were given, as fields of `PuzzleSpec`. Raises ValueError for a value of the wrong form."""
    fields = {flag: value for flag in PUZZLE_FLAGS if (value := getattr(options, flag)) is not None}
    if "operators" in fields:
        fields["operators"] = tuple(named_numbers(fields["operators"], "--operators"))
    if "hardness" in fields:
        fields["hardness"] = _span(fields["hardness"])
    return fields


def named_numbers(text: str, flag: str) -> list[tuple[str, float]]:
    """ "and=2,or=1" -> [("and", 2.0), ("or", 1.0)]"""
    pairs = []
    for item in text.split(","):
        name, _, number = item.partition("=")
        try:
            pairs.append((name.strip(), float(number)))
        except ValueError:
            raise ValueError(f"expected {flag} as NAME=NUMBER,NAME=NUMBER,..., got {item!r}.") from None
    return pairs


def _span(text: str) -> tuple[int, int]:
    low, _, high = text.partition(":")
    try:
        return int(low), int(high or low)
    except ValueError:
        raise ValueError(f"expected --hardness as LOW:HIGH, for example 4:8, got {text!r}.") from None

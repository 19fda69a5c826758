"""The argument parser of all commands. It is here because `data_gen` is the lowest layer that has a command."""

import argparse
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn


class CommandParser(argparse.ArgumentParser):
    """The flags of `python -m NAME`. Errors are raised as ValueError with one sentence, and nothing is printed.

    Flags are written with dashes; underscores are accepted as synonyms. Abbreviations are refused.

    name: of the module. description: shown by --help as it is. renamed: `{"--old": "--new"}`.
    """

    renamed: Mapping[str, str] = {}

    def __init__(self, name: str, description: str | None, **settings: Any):
        settings = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False} | settings
        super().__init__(prog=f"python -m {name}", description=description, **settings)
        self.name = name

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """See `argparse.ArgumentParser`; args must be given."""
        return super().parse_known_args([_with_dashes(argument) for argument in args], namespace)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """The flags as a namespace. Raises ValueError for a flag that is unknown, missing or has a wrong value."""
        given, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(self._unknown(unknown[0]))
        return given

    def error(self, message: str) -> NoReturn:
        """Raises ValueError."""
        raise ValueError(message)

    def flags(self) -> list[str]:
        """All flags, with dashes."""
        return [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]

    def _unknown(self, argument: str) -> str:
        flag = argument.partition("=")[0]
        if not flag.startswith("-"):
            return f"unexpected argument {argument!r}; see --help."
        if flag in self.renamed:
            return f"{flag} was renamed to {self.renamed[flag]}."
        near = difflib.get_close_matches(flag, self.flags(), 1)
        return f"unknown flag {flag}; {f'did you mean {near[0]}?' if near else 'see --help.'}"


def whole_numbers(text: str) -> list[int]:
    """The type of a flag with whole numbers, such as `2,3,5`."""
    numbers = text.split(",")
    if not all(number.isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError(f"expected whole numbers, such as 2,3,5, got {text!r}")
    return [int(number) for number in numbers]


def _with_dashes(argument: str) -> str:
    """`--top_k=1` -> `--top-k=1`; values are unchanged."""
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value if flag.startswith("--") else argument

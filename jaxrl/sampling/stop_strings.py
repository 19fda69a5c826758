"""Strings that end a response, wherever they fall on the tokens."""

import dataclasses
from collections.abc import Callable, Sequence


@dataclasses.dataclass(frozen=True)
class StopStrings:
    """Finds the token that completes one of `strings`; `decode` turns token ids into text, special tokens included."""

    strings: tuple[str, ...]
    decode: Callable[[list[int]], str]

    def __post_init__(self):
        if isinstance(self.strings, str) or not all(isinstance(string, str) and string for string in self.strings):
            raise ValueError(f"stop must be a sequence of strings, none of them empty, got {self.strings!r}.")

    def end(self, tokens: Sequence[int], searched: int) -> int | None:
        """How many tokens it takes until the text first holds a stop string; None if it holds none.

        searched: tokens of the row that were looked through before and hold none.
        """
        # A string that ends later begins within its own length of text before. Tokens may hold a part of a character,
        # or nothing, so text is counted in characters, of which there are never more than bytes.
        reach = back = max((len(string.encode()) for string in self.strings), default=0)
        while back < searched and len(self.decode(list(tokens[searched - back : searched]))) < reach:
            back *= 2
        start = max(0, searched - back)
        if not self._holds(tokens[start:]):
            return None
        return next(end for end in range(searched + 1, len(tokens) + 1) if self._holds(tokens[start:end]))

    def cut(self, text: str) -> str:
        """`text` up to its first stop string."""
        places = [place for string in self.strings if (place := text.find(string)) >= 0]
        return text[: min(places)] if places else text

    def _holds(self, tokens: Sequence[int]) -> bool:
        text = self.decode(list(tokens))
        return any(string in text for string in self.strings)

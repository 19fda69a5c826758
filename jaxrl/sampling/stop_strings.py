"""Strings that end a response, independent of token boundaries."""

import dataclasses
from collections.abc import Callable, Sequence


@dataclasses.dataclass(frozen=True)
class StopStrings:
    """Finds the token that completes one of `strings`; `decode` maps token ids to text, special tokens included."""

    strings: tuple[str, ...]
    decode: Callable[[list[int]], str]

    def __post_init__(self):
        if isinstance(self.strings, str) or not all(isinstance(string, str) and string for string in self.strings):
            raise ValueError(f"stop: expected a sequence of non-empty strings, got {self.strings!r}.")

    def end(self, tokens: Sequence[int], searched: int) -> int | None:
        """Number of tokens up to the end of the first stop string; None if there is none.

        searched: leading tokens that were already searched and contain no stop string.
        """
        # A stop string that ends in new tokens starts at most its own length before them. A token may decode to a part
        # of a character or to nothing. So the length is compared in decoded characters, not in tokens; a string has at
        # most as many characters as bytes.
        reach = back = max((len(string.encode()) for string in self.strings), default=0)
        while back < searched and len(self.decode(list(tokens[searched - back : searched]))) < reach:
            back *= 2
        start = max(0, searched - back)
        if not self._contains(tokens[start:]):
            return None
        return next(end for end in range(searched + 1, len(tokens) + 1) if self._contains(tokens[start:end]))

    def truncate(self, text: str) -> str:
        """`text` up to its first stop string."""
        starts = [start for string in self.strings if (start := text.find(string)) >= 0]
        return text[: min(starts)] if starts else text

    def _contains(self, tokens: Sequence[int]) -> bool:
        text = self.decode(list(tokens))
        return any(string in text for string in self.strings)

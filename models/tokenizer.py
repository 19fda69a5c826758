"""The tokenizer of a model folder, through transformers and without torch."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from models.folder import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\ufffd"


def load_tokenizer(folder: str | Path) -> "PreTrainedTokenizerBase":
    """The folder's tokenizer. Raises FileNotFoundError when it holds none, ValueError when it is damaged."""
    folder = Path(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise FileNotFoundError(
            f"expected tokenizer files in {folder} (tokenizer.json, or vocab.json with "
            "merges.txt), found none; copy them from the model this one was made from."
        )
    # Without torch, which nothing here needs, transformers would advise to install it.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer  # slow to import, and only needed here

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the loader raises whatever its parsers raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the tokenizer in {folder} can't be read ({reason}); copy its files again.") from error


def eos_ids(folder: str | Path, tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """Every token that ends a response: those of `generation_config.json`, then the tokenizer's own.

    Raises ValueError when there is none, since nothing would ever end a response.
    """
    path = Path(folder) / "generation_config.json"
    named = read_json(path).get("eos_token_id") if path.is_file() else None
    ids = [] if named is None else [named] if isinstance(named, int) else list(named)
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    if not ids:
        raise ValueError(f"{folder} names no end-of-sequence token; set eos_token_id in generation_config.json.")
    return tuple(dict.fromkeys(int(i) for i in ids))


def check_vocabulary(tokenizer: "PreTrainedTokenizerBase", vocab_size: int, ends: Sequence[int] = ()) -> None:
    """Raise ValueError when the tokenizer (or `ends`) uses an id that the model has no row for."""
    largest = max([*tokenizer.get_vocab().values(), *ends], default=-1)
    if largest >= vocab_size:
        raise ValueError(
            f"the tokenizer uses token id {largest}, the model has rows for 0 to "
            f"{vocab_size - 1}; use the tokenizer that belongs to this model."
        )


class Detokenizer:
    """Text as its tokens arrive, never half a character: bytes wait until their character is whole.

    Decoding a short tail and taking what is new costs O(tail) a token and copes with any byte-level
    tokenizer.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase"):
        self._tokenizer = tokenizer
        self._tail: list[int] = []
        self._shown = ""

    def _decode(self) -> str:
        return self._tokenizer.decode(self._tail, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def push(self, token: int) -> str:
        """The text that this token completes, maybe none."""
        self._tail.append(int(token))
        text = self._decode()
        if text.endswith(REPLACEMENT):
            return ""
        new = text[len(self._shown) :]
        # one whole token stays as context: some tokenizers drop the space of a first word
        self._tail, self._shown = self._tail[-1:], ""
        self._shown = self._decode()
        return new

    def finish(self) -> str:
        """What is still waiting, with the replacement sign for bytes that never became a character."""
        text = self._decode() if self._tail else ""
        new = text[len(self._shown) :]
        self._tail, self._shown = [], ""
        return new

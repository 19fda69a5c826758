"""The tokenizer of a model folder, through transformers and without torch."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from models.folder import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(folder: str | Path) -> "PreTrainedTokenizerBase":
    """Loads a folder's tokenizer. Raises FileNotFoundError without tokenizer files, ValueError for damaged ones."""
    folder = Path(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise FileNotFoundError(
            f"expected tokenizer files in {folder} (tokenizer.json, or vocab.json with "
            "merges.txt), found none; copy them from the base model."
        )
    # Suppresses the advice of transformers to install torch.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer  # slow to import

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the loader passes on the exceptions of its parsers
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the tokenizer in {folder} can't be loaded ({reason}); copy its files again.") from error


def eos_ids(folder: str | Path, tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """The token ids that end a response: those of `generation_config.json`, then the tokenizer's.

    Raises ValueError if there are none.
    """
    path = Path(folder) / "generation_config.json"
    configured = read_json(path).get("eos_token_id") if path.is_file() else None
    ids = [] if configured is None else [configured] if isinstance(configured, int) else list(configured)
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    if not ids:
        raise ValueError(
            f"expected an end-of-sequence token in {folder}, found none; set eos_token_id in generation_config.json."
        )
    return tuple(dict.fromkeys(int(i) for i in ids))


def check_vocabulary(tokenizer: "PreTrainedTokenizerBase", vocab_size: int, ends: Sequence[int] = ()) -> None:
    """Raises ValueError if a token id of the tokenizer or of `ends` is not in the model's vocabulary."""
    largest = max([*tokenizer.get_vocab().values(), *ends], default=-1)
    if largest >= vocab_size:
        raise ValueError(
            f"the tokenizer uses token id {largest}, the model's embedding has ids 0 to {vocab_size - 1}; "
            "use the tokenizer of this model."
        )

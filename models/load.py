"""A model for use in Python, with one call."""

from typing import TYPE_CHECKING, NamedTuple

from jax.typing import DTypeLike

from models.config import Qwen2Config
from models.convert import load_params
from models.folder import read_config
from models.params import Params
from models.source import resolve_model
from models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class LoadedModel(NamedTuple):
    """The parts of a model. params: the scanned tree, see `models.params.unstack`."""

    config: Qwen2Config
    params: Params
    tokenizer: "PreTrainedTokenizerBase"


def load_model(name: str, dtype: DTypeLike | None = None) -> LoadedModel:
    """Config, parameters and tokenizer of a Hugging Face folder or hub name, on the first device.

    dtype: None keeps what is stored. Raises FileNotFoundError or ValueError for files that are missing or damaged.
    """
    folder = resolve_model(name)
    config = read_config(folder)
    return LoadedModel(config, load_params(folder, config, dtype=dtype), load_tokenizer(folder))

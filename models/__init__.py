"""Qwen2-architecture models in Flax linen: config, modules, cache, conversion, tokenizer.

The names below are for use in Python; submodules are imported on first use.
"""

import importlib
from typing import Any

_MODULES = {
    "LoRASpec": "lora",
    "LoadedModel": "load",
    "Qwen2": "qwen2",
    "Qwen2Config": "config",
    "load_model": "load",
    "load_params": "convert",
    "load_tokenizer": "tokenizer",
    "read_config": "folder",
    "save_params": "convert",
}
__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)

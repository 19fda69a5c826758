"""Use of a trained model: loading, sampling, evaluation, hidden states. Submodules are imported on first use."""

import importlib
from typing import Any

_MODULES = {
    "EvaluationRequest": "evaluate",
    "GenerationSpec": "generate",
    "Source": "load",
    "complete_file": "generate",
    "evaluate_model": "evaluate",
    "find_model": "load",
    "inspect_rows": "hidden_states",
    "load_policy": "load",
    "read_prompts": "prompt_files",
    "stored_config": "load",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)

"""A sampling request: checked before anything compiles, and laid out by rows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxrl.sampling.stop_strings import StopStrings
from jaxrl.sampling.types import LARGEST, Coordinates, SamplingSpec

_KINDS = {
    "temperature": np.float32,
    "top_k": np.int32,
    "top_p": np.float32,
    "min_p": np.float32,
    "max_new_tokens": np.int32,
}


class Request(NamedTuple):
    """One call of `sample` on the host; a row is one completion, prompt-major."""

    prompts: Sequence[Sequence[int]]
    group_size: int
    length: np.ndarray  # [rows] prompt tokens
    settings: dict[str, np.ndarray]  # [rows] each
    coordinates: np.ndarray  # [rows, 2] prompt and sample index
    seed: int
    step: int
    eos_ids: tuple[int, ...]
    stop: StopStrings | None
    truncated: bool  # some row restricts the tokens it may draw


def _check_prompts(prompts: Sequence[Sequence[int]], vocab_size: int, longest: int):
    if len(prompts) == 0:
        raise ValueError("expected at least one prompt, got none; pass a list of token id lists.")
    for index, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise ValueError(f"prompt {index} is empty; every prompt needs at least one token.")
        if len(prompt) > longest:
            raise ValueError(
                f"prompt {index} has {len(prompt)} tokens, more than the longest cache of {longest}; "
                "shorten it or raise `longest`."
            )
        for token in (min(prompt), max(prompt)):
            if not 0 <= token < vocab_size:
                raise ValueError(
                    f"prompt {index} has token {token}, outside the vocabulary of {vocab_size}; "
                    "check that the tokenizer belongs to the model."
                )


def _settings(spec: SamplingSpec, total: int) -> dict[str, np.ndarray]:
    settings = {}
    for name, kind in _KINDS.items():
        value = np.asarray(getattr(spec, name), kind)
        if value.shape not in ((), (total,)):
            raise ValueError(f"{name} must be one value or one per row ({total}), got shape {value.shape}.")
        settings[name] = np.broadcast_to(value, (total,))
    return settings


def make_request(
    prompts: Sequence[Sequence[int]],
    group_size: int,
    coordinates: Coordinates,
    spec: SamplingSpec,
    *,
    vocab_size: int,
    longest: int,
) -> Request:
    """Check a call of `sample` and lay it out by rows. Raises ValueError saying what to do."""
    _check_prompts(prompts, vocab_size, longest)
    if group_size < 1:
        raise ValueError(f"group_size must be at least 1, got {group_size}.")
    if any(token >= vocab_size for token in spec.eos_ids):
        raise ValueError(
            f"eos_ids {spec.eos_ids} reach beyond the vocabulary of {vocab_size}; "
            "check that the tokenizer belongs to the model."
        )
    prompt_index, sample_index = (np.asarray(x) for x in (coordinates.prompt, coordinates.sample))
    if prompt_index.shape != (len(prompts),) or sample_index.shape != (group_size,):
        raise ValueError(
            f"coordinates must name {len(prompts)} prompts and {group_size} samples, got shapes "
            f"{prompt_index.shape} and {sample_index.shape}."
        )
    for name, index in (("prompt", prompt_index), ("sample", sample_index)):
        if index.dtype.kind not in "iu" or index.min() < 0 or index.max() > LARGEST:
            raise ValueError(f"coordinates: each {name} must be a whole number from 0 to {LARGEST}, got {index}.")
    settings = _settings(spec, len(prompts) * group_size)
    length = np.repeat(np.array([len(prompt) for prompt in prompts], np.int32), group_size)
    room = longest - length - settings["max_new_tokens"]
    if room.min() < 0:
        row = int(room.argmin())
        raise ValueError(
            f"row {row} has {length[row]} prompt tokens and may write {settings['max_new_tokens'][row]}, "
            f"more than longest = {longest} together; lower max_new_tokens or raise `longest`."
        )
    restricted = (settings["top_k"] > 0) | (settings["top_p"] < 1) | (settings["min_p"] > 0)
    pairs = np.stack([np.repeat(prompt_index, group_size), np.tile(sample_index, len(prompts))], axis=1)
    pairs = pairs.astype(np.int32)
    return Request(
        prompts,
        group_size,
        length,
        settings,
        pairs,
        int(coordinates.seed),
        int(coordinates.step),
        tuple(spec.eos_ids),
        spec.stop if spec.stop and spec.stop.strings else None,
        bool(restricted.any()),
    )

"""A sampling request: validated before anything compiles, with one entry per row."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxrl.sampling.stop_strings import StopStrings
from jaxrl.sampling.types import MAX_INT32, Coordinates, SamplingSpec

# The settings that may differ from row to row, and their types.
_DTYPES = {
    "temperature": np.float32,
    "top_k": np.int32,
    "top_p": np.float32,
    "min_p": np.float32,
    "max_new_tokens": np.int32,
}


class SampleRequest(NamedTuple):
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
    truncated: bool  # some row uses top-k, top-p or min-p


def _check_prompts(prompts: Sequence[Sequence[int]], vocab_size: int, longest: int):
    if len(prompts) == 0:
        raise ValueError("prompts: expected at least one, got none; pass a list of token id lists.")
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
    for name, kind in _DTYPES.items():
        value = np.asarray(getattr(spec, name), kind)
        if value.shape not in ((), (total,)):
            raise ValueError(f"{name}: expected one value or one per row ({total}), got shape {value.shape}.")
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
) -> SampleRequest:
    """Validate the arguments of `Sampler.sample` and expand them to rows. Raises ValueError.

    longest: most tokens of a prompt and its completion together.
    """
    _check_prompts(prompts, vocab_size, longest)
    if group_size < 1:
        raise ValueError(f"group_size: expected at least 1, got {group_size}.")
    if any(token >= vocab_size for token in spec.eos_ids):
        raise ValueError(
            f"eos_ids: expected ids below the vocabulary size {vocab_size}, got {spec.eos_ids}; "
            "check that the tokenizer belongs to the model."
        )
    prompt_index, sample_index = (np.asarray(x) for x in (coordinates.prompt, coordinates.sample))
    if prompt_index.shape != (len(prompts),) or sample_index.shape != (group_size,):
        raise ValueError(
            f"coordinates: expected {len(prompts)} prompts and {group_size} samples, got shapes "
            f"{prompt_index.shape} and {sample_index.shape}."
        )
    for name, index in (("prompt", prompt_index), ("sample", sample_index)):
        if index.dtype.kind not in "iu" or index.min() < 0 or index.max() > MAX_INT32:
            raise ValueError(f"coordinates: expected each {name} to be an integer from 0 to {MAX_INT32}, got {index}.")
    settings = _settings(spec, len(prompts) * group_size)
    length = np.repeat(np.array([len(prompt) for prompt in prompts], np.int32), group_size)
    spare = longest - length - settings["max_new_tokens"]
    if spare.min() < 0:
        row = int(spare.argmin())
        raise ValueError(
            f"row {row} has {length[row]} prompt tokens and max_new_tokens = {settings['max_new_tokens'][row]}, "
            f"together more than longest = {longest}; lower max_new_tokens or raise `longest`."
        )
    restricted = (settings["top_k"] > 0) | (settings["top_p"] < 1) | (settings["min_p"] > 0)
    pairs = np.stack([np.repeat(prompt_index, group_size), np.tile(sample_index, len(prompts))], axis=1)
    pairs = pairs.astype(np.int32)
    return SampleRequest(
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

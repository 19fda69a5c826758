"""The inputs of a sampler, its state between decode steps, and its outputs."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxrl.sampling.stop_strings import StopStrings

PerRow = float | Sequence[float] | np.ndarray
MIN_TEMPERATURE = 1e-4  # besides 0
MAX_INT32 = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class SamplingSpec:
    """How tokens are sampled. A number is one value for all rows, or one for each row (P * G, prompt-major).

    temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 are off. stop: strings that end a row as an EOS does.
    Changing a value recompiles nothing; another number of EOS ids does, and the first use of top-k, top-p or min-p.
    """

    max_new_tokens: int | Sequence[int] | np.ndarray
    eos_ids: tuple[int, ...]
    temperature: PerRow = 1.0
    top_k: int | Sequence[int] | np.ndarray = 0
    top_p: PerRow = 1.0
    min_p: PerRow = 0.0
    stop: StopStrings | None = None

    def __post_init__(self):
        bounds = {  # field: (lowest, highest, whether the lowest itself is allowed)
            "max_new_tokens": (1, MAX_INT32, True),
            "temperature": (0, np.inf, True),
            "top_k": (0, MAX_INT32, True),
            "top_p": (0, 1, False),
            "min_p": (0, 1, True),
        }
        for field, (low, high, closed) in bounds.items():
            value = np.asarray(getattr(self, field))
            if value.dtype.kind not in ("iu" if high == MAX_INT32 else "iuf"):
                kind = "an integer" if high == MAX_INT32 else "a number"
                raise ValueError(f"{field}: expected {kind} up to {high}, got {getattr(self, field)!r}.")
            if not np.all((value >= low if closed else value > low) & (value <= high) & np.isfinite(value)):
                interval = f"{'[' if closed else '('}{low}, {high}{')' if high == np.inf else ']'}"
                raise ValueError(f"{field}: expected a value in {interval}, got {getattr(self, field)}.")
        temperature = np.asarray(self.temperature)
        if np.any((temperature > 0) & (temperature < MIN_TEMPERATURE)):
            raise ValueError(
                f"temperature: expected 0 (greedy) or at least {MIN_TEMPERATURE}, got {self.temperature}; logits "
                "divided by less are no longer finite."
            )
        if not np.iterable(self.eos_ids) or not all(
            isinstance(token, int | np.integer) and token >= 0 for token in self.eos_ids
        ):
            raise ValueError(f"eos_ids: expected a sequence of token ids (integers from 0), got {self.eos_ids!r}.")


class Coordinates(NamedTuple):
    """The coordinates of completions in a run: everything that their random numbers depend on."""

    seed: int
    step: int
    prompt: Int[np.ndarray, " P"]  # index of each prompt, in training in its stage's pool
    sample: Int[np.ndarray, " G"]  # index of each sample of a prompt


class Completions(NamedTuple):
    """Sampled completions on the host, prompt-major. From `lengths` on, tokens and logp are 0."""

    tokens: Int[np.ndarray, "B C"]
    lengths: Int[np.ndarray, " B"]  # including the first EOS, or the token that completes a stop string
    finished: Bool[np.ndarray, " B"]  # by an EOS or a stop string; False: truncated at max_new_tokens
    logp: Float[np.ndarray, "B C"]  # of the distribution at the row's temperature (greedy: 1), before truncation
    truncated_logp: Float[np.ndarray, "B C"]  # the same after top-k, top-p and min-p; equal where these are off
    occupancy: float  # share of all slots' decode steps that sampled a token


class Slots(NamedTuple):
    """Decoding state of the rows of a batch; immutable. A free slot is a row that is done."""

    token: Int[Array, " B"]  # last sampled token, not in the cache yet
    position: Int[Array, " B"]  # position of `token`
    produced: Int[Array, " B"]  # tokens sampled so far
    limit: Int[Array, " B"]  # most tokens to sample
    done: Bool[Array, " B"]
    finished: Bool[Array, " B"]  # done because of an EOS; the host finds stop strings
    broken: Bool[Array, " B"]  # done because of logits that are not finite
    key: UInt32[Array, "B 2"]  # folds in seed, step, prompt and sample; each token folds in its position
    temperature: Float[Array, " B"]
    top_k: Int[Array, " B"]
    top_p: Float[Array, " B"]
    min_p: Float[Array, " B"]


def initial_slots(settings: dict[str, np.ndarray], length: np.ndarray) -> Slots:
    """Host arrays of rows whose prompts of `length` tokens are in the cache, before their first token."""
    zeros, no = np.zeros(length.shape, np.int32), np.zeros(length.shape, bool)
    return Slots(
        token=zeros,
        position=length.astype(np.int32) - 1,
        produced=zeros,
        limit=settings["max_new_tokens"],
        done=no,
        finished=no,
        broken=no,
        key=np.zeros((*length.shape, 2), np.uint32),
        temperature=settings["temperature"],
        top_k=settings["top_k"],
        top_p=settings["top_p"],
        min_p=settings["min_p"],
    )

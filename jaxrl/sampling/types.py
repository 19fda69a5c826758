"""What a sampler is asked for, what it holds between steps, and what it gives back."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxrl.sampling.stop_strings import StopStrings

PerRow = float | Sequence[float] | np.ndarray
COLDEST = 1e-4  # lowest temperature that is not 0
LARGEST = 2**31 - 1  # whole number on a device


@dataclasses.dataclass(frozen=True)
class SamplingSpec:
    """How tokens are drawn. A number is one value for all, or one for each row (P * G, prompt-major).

    temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 are off. stop: strings that end a row as an EOS does.
    No value compiles anything anew; another number of EOS ids does, and the first row that is truncated.
    """

    max_new_tokens: int | Sequence[int] | np.ndarray
    eos_ids: tuple[int, ...]
    temperature: PerRow = 1.0
    top_k: int | Sequence[int] | np.ndarray = 0
    top_p: PerRow = 1.0
    min_p: PerRow = 0.0
    stop: StopStrings | None = None

    def __post_init__(self):
        bounds = {  # field: (lowest, highest, is the lowest itself allowed)
            "max_new_tokens": (1, LARGEST, True),
            "temperature": (0, np.inf, True),
            "top_k": (0, LARGEST, True),
            "top_p": (0, 1, False),
            "min_p": (0, 1, True),
        }
        for field, (low, high, closed) in bounds.items():
            value = np.asarray(getattr(self, field))
            if value.dtype.kind not in ("iu" if high == LARGEST else "iuf"):
                kind = "a whole number" if high == LARGEST else "a number"
                raise ValueError(f"{field} must be {kind} up to {high}, got {getattr(self, field)!r}.")
            if not np.all((value >= low if closed else value > low) & (value <= high) & np.isfinite(value)):
                span = f"{'[' if closed else '('}{low}, {high}{')' if high == np.inf else ']'}"
                raise ValueError(f"{field} must lie in {span}, got {getattr(self, field)}; choose a value inside.")
        heat = np.asarray(self.temperature)
        if np.any((heat > 0) & (heat < COLDEST)):
            raise ValueError(
                f"temperature must be 0 (greedy) or at least {COLDEST}, got {self.temperature}; logits divided by less "
                "are no longer finite."
            )
        if not np.iterable(self.eos_ids) or not all(
            isinstance(token, int | np.integer) and token >= 0 for token in self.eos_ids
        ):
            raise ValueError(f"eos_ids must be a sequence of token ids (integers from 0), got {self.eos_ids!r}.")


class Coordinates(NamedTuple):
    """Where in a training a completion stands: all that its random numbers depend on."""

    seed: int
    step: int
    prompt: Int[np.ndarray, " P"]  # index of each prompt in the whole data set
    sample: Int[np.ndarray, " G"]  # index of each sample of a prompt


class Completions(NamedTuple):
    """What was drawn, on the host; rows prompt-major. Beyond `lengths`, tokens and logp are 0."""

    tokens: Int[np.ndarray, "B C"]
    lengths: Int[np.ndarray, " B"]  # including the first EOS, or the token that completes a stop string
    finished: Bool[np.ndarray, " B"]  # by an EOS or a stop string; False: cut off by max_new_tokens
    logp: Float[np.ndarray, "B C"]  # of the distribution at the row's temperature (greedy: 1), before truncation
    truncated_logp: Float[np.ndarray, "B C"]  # the same after top-k, top-p and min-p; equal where these are off
    occupancy: float  # share of the slots' decode steps that drew a token


class Slots(NamedTuple):
    """One row of a batch that is being decoded. A free slot is a row that is done."""

    token: Int[Array, " B"]  # last token drawn, not in the cache yet
    position: Int[Array, " B"]  # where it will be written
    produced: Int[Array, " B"]  # tokens drawn so far
    limit: Int[Array, " B"]  # tokens to draw at most
    done: Bool[Array, " B"]
    finished: Bool[Array, " B"]  # done by an EOS
    broken: Bool[Array, " B"]  # done by logits that are not finite
    key: UInt32[Array, "B 2"]  # seed, step, prompt and sample folded in; each draw folds the position in
    temperature: Float[Array, " B"]
    top_k: Int[Array, " B"]
    top_p: Float[Array, " B"]
    min_p: Float[Array, " B"]

"""Sampling: completions as a function of weights, prompt and coordinates, and of nothing else."""

from jaxrl.sampling.sampler import Sampler
from jaxrl.sampling.stop_strings import StopStrings
from jaxrl.sampling.types import Completions, Coordinates, SamplingSpec

__all__ = ["Completions", "Coordinates", "Sampler", "SamplingSpec", "StopStrings"]

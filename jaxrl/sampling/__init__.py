"""Sampling: completions as a function of weights, prompt and coordinates, and of nothing else."""

from jaxrl.sampling.sampler import Sampler
from jaxrl.sampling.state import Completions, Coordinates, SamplingSpec
from jaxrl.sampling.stops import StopStrings

__all__ = ["Completions", "Coordinates", "Sampler", "SamplingSpec", "StopStrings"]

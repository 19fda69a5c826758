"""From the config of a supervised run to its specification."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_gen.corpus import CorpusSpec
from data_gen.prompts import PromptSpec
from data_gen.response_styles import FORMATS, ResponseSpec
from data_gen.spec import PuzzleSpec
from jaxrl.checkpointing.checkpoints import CheckpointSpec
from jaxrl.learning.optimizer import OptimizerSpec
from jaxrl.tasks.knights_and_knaves import operator_weights
from models.config import Qwen2Config


@dataclasses.dataclass(frozen=True)
class PhaseSpec:
    """One phase: `tokens` tokens of a corpus.

    The learning rate warms up linearly over `warmup_steps`, then decays by a cosine over the phase's tokens to
    `final_share` of its peak.
    """

    name: str
    corpus: CorpusSpec
    tokens: int
    peak_learning_rate: float
    final_share: float
    warmup_steps: int

    def learning_rate(self, tokens: int, step: int) -> float:
        """The learning rate after `tokens` tokens and `step` steps of this phase."""
        done = min(tokens / self.tokens, 1.0)
        decay = self.final_share + (1 - self.final_share) * 0.5 * (1 + np.cos(np.pi * done))
        return float(self.peak_learning_rate * decay * min((step + 1) / max(self.warmup_steps, 1), 1.0))


@dataclasses.dataclass(frozen=True)
class SupervisedSpec:
    """A supervised run.

    rows: examples per optimizer step. micro_tokens: tokens per micro-batch, padding included. longest: maximum tokens
    of an example; longer examples are truncated.
    """

    seed: int
    model: Qwen2Config
    prompt: PromptSpec
    optimizer: OptimizerSpec
    phases: tuple[PhaseSpec, ...]
    rows: int
    micro_tokens: int
    longest: int
    checkpoint: CheckpointSpec


def supervised_spec(config: Mapping[str, Any]) -> SupervisedSpec:
    """The specification of a config given as plain dicts. Raises ValueError for a value that is not accepted."""
    return SupervisedSpec(
        seed=config["seed"],
        model=Qwen2Config(**config["model"]),
        prompt=PromptSpec(**config["prompt"]),
        optimizer=OptimizerSpec(**config["optimizer"]),
        phases=tuple(_phase(name, config["phases"][name], config["puzzles"]) for name in config["order"]),
        rows=config["rows"],
        micro_tokens=config["micro_tokens"],
        longest=config["longest"],
        checkpoint=CheckpointSpec(**config["checkpoint"]),
    )


def _phase(name: str, fields: Mapping[str, Any], puzzles: Mapping[str, Any]) -> PhaseSpec:
    puzzles = dict(puzzles)
    splits, split_seed = tuple(puzzles.pop("splits").items()), puzzles.pop("split_seed")
    puzzles["operators"] = operator_weights(puzzles["operators"])
    right, *broken = FORMATS
    formats = ((right, 1 - fields["broken"]), *((form, fields["broken"] / len(broken)) for form in broken))
    styles = tuple((style.replace("_", "-"), weight) for style, weight in fields["styles"].items())
    people = tuple((int(kind[1:]), share) for kind, share in sorted(fields["people"].items()))
    corpus = CorpusSpec(people, PuzzleSpec(people[-1][0], **puzzles), ResponseSpec(styles, formats), splits, split_seed)
    return PhaseSpec(
        name, corpus, fields["tokens"], fields["learning_rate"], fields["final_share"], fields["warmup_steps"]
    )

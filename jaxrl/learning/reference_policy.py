"""The weights that the KL is taken to, where these follow the policy instead of staying as they were."""

import dataclasses
import functools
from collections.abc import Callable

import jax

from jaxrl.learning.state import TrainState


@dataclasses.dataclass(frozen=True)
class ReferenceSpec:
    """How the reference moves: reference = decay x reference + (1 - decay) x policy, after every so many steps.

    every 0: never (frozen). decay 0: a copy of the policy every so many steps. every 1: an exponential moving average.
    """

    every: int = 0
    decay: float = 0.0

    def __post_init__(self):
        if self.every < 0 or not 0 <= self.decay < 1:
            raise ValueError(
                "algorithm.reference: expected every of 0 or more and a decay from 0 to under 1, got "
                f"{self.every} and {self.decay}."
            )
        if self.decay and not self.every:
            raise ValueError(
                f"algorithm.reference: decay={self.decay} does nothing while every is 0; set every to the steps "
                "between two moves."
            )

    @property
    def follows(self) -> bool:
        """Whether the reference is a part of the state."""
        return self.every > 0


def make_follow(spec: ReferenceSpec) -> Callable[[TrainState, int], TrainState]:
    """`follow(state, step)`: the state after training step `step` (from 1), its reference moved where that is due."""

    @functools.partial(jax.jit, donate_argnums=0)
    def move(reference, params):
        return jax.tree.map(lambda old, new: spec.decay * old + (1 - spec.decay) * new, reference, params)

    def follow(state, step):
        due = spec.follows and step % spec.every == 0
        return state._replace(reference=move(state.reference, state.params)) if due else state

    return follow

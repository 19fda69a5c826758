"""The moving reference: KL reference weights that are updated from the policy during training."""

import dataclasses
import functools
from collections.abc import Callable

import jax

from jaxrl.learning.state import TrainState


@dataclasses.dataclass(frozen=True)
class ReferenceSpec:
    """reference = decay x reference + (1 - decay) x policy, after every `every`-th training step.

    every 0: a fixed reference. decay 0: a copy of the policy. every 1: an exponential moving average.
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
                f"algorithm.reference: decay={self.decay} has no effect with every=0; set every to the number of steps "
                "between two updates of the reference."
            )

    @property
    def moves(self) -> bool:
        """True for a moving reference, which is part of the state; False for a fixed one, which is not."""
        return self.every > 0


def make_reference_update(spec: ReferenceSpec) -> Callable[[TrainState, int], TrainState]:
    """`update_reference(state, step)`: the state with the moving reference updated if it is due after `step` (from 1).

    The old reference is donated. A fixed reference leaves the state as it is.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def interpolate(reference, params):
        return jax.tree.map(lambda old, new: spec.decay * old + (1 - spec.decay) * new, reference, params)

    def update_reference(state: TrainState, step: int) -> TrainState:
        due = spec.moves and step % spec.every == 0
        return state._replace(reference=interpolate(state.reference, state.params)) if due else state

    return update_reference

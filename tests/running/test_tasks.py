"""Which puzzles a step asks: every puzzle of an epoch once, orders that differ, a function of seed and step alone."""

import numpy as np
import pytest

from jaxrl.running.tasks import choose


@pytest.mark.parametrize(("pool", "prompts"), [(12, 4), (13, 4), (4, 4)])
def test_an_epoch_asks_no_puzzle_twice(pool, prompts):
    steps = pool // prompts
    for epoch in range(3):
        asked = np.concatenate([choose(pool, prompts, (0, 1), epoch * steps + place) for place in range(steps)])
        assert len(set(asked.tolist())) == len(asked) == steps * prompts


def test_orders_differ_by_epoch_and_seed_and_repeat_for_the_same():
    first = choose(50, 50, (0, 1), 0)
    assert (first == choose(50, 50, (0, 1), 0)).all()
    assert (first != choose(50, 50, (0, 1), 1)).any()
    assert (first != choose(50, 50, (0, 2), 0)).any()
    assert (first != choose(50, 50, (1, 1), 0)).any()

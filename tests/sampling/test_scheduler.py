"""The order in which rows get slots."""

import numpy as np
import pytest

from jaxrl.sampling.scheduler import Queue

pytestmark = pytest.mark.check


def test_rows_with_large_limits_go_first_and_equal_ones_in_order():
    queue = Queue(np.array([5, 9, 5, 7, 9, 1]), 1, np.arange(6))
    assert [queue.take(0) for _ in range(6)] == [1, 4, 3, 0, 2, 5]


def test_a_device_takes_its_own_rows_and_then_the_last_row_of_the_longest_list():
    queue = Queue(np.full(9, 8), 2, np.arange(6))
    assert [queue.take(device) for device in (1, 1, 1, 1, 0, 0)] == [3, 4, 5, 2, 0, 1] and not len(queue)

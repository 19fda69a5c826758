"""Every row once, in a shape that holds it; under 10 % padding on a real spread of lengths."""

import itertools

import numpy as np
import pytest

from jaxrl.algorithms.batch import Batch
from jaxrl.learning.batching import LayoutSpec, cut, length_buckets, padding_share, take


def spread(seed, rows=256):
    """Prompts of 40 to 80 tokens shared by 16 samples, responses log-normal around 80, up to 250."""
    rng = np.random.default_rng(seed)
    prompts = rng.integers(40, 80, rows // 16).repeat(16)
    return (prompts + np.clip(rng.lognormal(4.4, 0.6, rows), 15, 250)).astype(np.int32)


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_every_row_once_in_a_shape_that_holds_it(shards):
    lengths, layout = spread(0, 48), LayoutSpec(length_buckets(330), 2048)
    pieces = cut(lengths, layout, shards)
    assert sorted(np.concatenate([piece.rows for piece in pieces])) == list(range(48))
    for piece in pieces:
        assert piece.length in layout.buckets and piece.length >= lengths[piece.rows].max()
        assert piece.size % shards == 0 and len(piece.rows) <= piece.size
    assert len({(piece.size, piece.length) for piece in pieces}) <= len(layout.buckets)


@pytest.mark.parametrize("seed", range(5))
def test_under_ten_percent_of_padding(seed):
    lengths = spread(seed)
    pieces = cut(lengths, LayoutSpec(length_buckets(330, shortest=64, ratio=1.12), 1024), 2)
    assert padding_share(lengths, pieces) < 0.10


def test_take_zeroes_what_lies_beyond_and_fills_up_with_empty_rows():
    nan = np.float32(np.nan)
    batch = Batch(
        np.array([[1, 2, 9, 9], [3, 9, 9, 9]], np.int32),
        np.array([2, 1], np.int32),
        np.array([[0, 1, nan, nan], [1, nan, nan, nan]], np.float32),
        np.full((2, 4), nan, np.float32),
    )
    (piece,) = cut(batch.lengths, LayoutSpec((6,), 18), 1)
    micro = take(batch, piece)
    assert micro.tokens.tolist() == [[1, 2, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0], [0] * 6]
    assert micro.loss_mask.tolist() == [[0, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [0] * 6]
    assert micro.lengths.tolist() == [2, 1, 1] and micro.old_logp is None


def test_buckets_rise_to_the_longest_and_stay_multiples():
    buckets = length_buckets(330, shortest=64, multiple=8, ratio=1.2)
    assert buckets[0] == 64 and buckets[-1] == 336 and all(b % 8 == 0 for b in buckets)
    assert all(right <= left * 1.2 + 8 for left, right in itertools.pairwise(buckets))
    assert length_buckets(100, shortest=200) == (104,)


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="a row of 40 tokens does not fit the longest bucket, 32"):
        cut(np.array([40]), LayoutSpec((16, 32)), 1)
    with pytest.raises(ValueError, match="rising lengths"):
        LayoutSpec((32, 16))

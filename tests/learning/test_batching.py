"""Every row once, in a shape that holds it; under 10 % padding on a real spread of lengths."""

import itertools

import numpy as np
import pytest

from configs import stage2
from jaxrl.algorithms.batch import Batch
from jaxrl.flags import plain
from jaxrl.learning.batching import LayoutSpec, cut, length_buckets, padding_share, take
from jaxrl.running.machine import update_spec
from jaxrl.running.settings import run_spec


def spread(seed, rows=256, median=100, longest=512, prompts=(40, 80)):
    """Prompts shared by 16 samples; responses log-normal, cut off at `longest`."""
    rng = np.random.default_rng(seed)
    asked = rng.integers(*prompts, rows // 16).repeat(16)
    return (asked + np.clip(rng.lognormal(np.log(median), 0.8, rows), 4, longest)).astype(np.int32)


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_every_row_once_in_a_shape_that_holds_it(shards):
    lengths, layout = spread(0, 48), LayoutSpec(length_buckets(592), 2048)
    pieces = cut(lengths, layout, shards)
    assert sorted(np.concatenate([piece.rows for piece in pieces])) == list(range(48))
    for piece in pieces:
        assert piece.length in layout.buckets and piece.length >= lengths[piece.rows].max()
        assert piece.size % shards == 0 and len(piece.rows) <= piece.size
    assert len({(piece.size, piece.length) for piece in pieces}) <= len(layout.buckets) + 1


@pytest.mark.parametrize(("size", "shards", "step"), [
    ("tiny", 1, dict(rows=256)), ("7b", 4, dict(rows=512, median=700, longest=2048, prompts=(300, 400)))])
def test_under_ten_percent_of_padding_in_few_shapes(size, shards, step):
    """Steps of real lengths as the shipped configs cut them up, and the programs that a run of them compiles."""
    steps = [spread(seed, **step) for seed in range(40)]
    layout = update_spec(run_spec(plain(stage2.get_config(size))), max(map(max, steps))).layout
    cuts = [cut(lengths, layout, shards) for lengths in steps]
    assert max(map(padding_share, steps, cuts)) < 0.10
    assert len({(piece.size, piece.length) for pieces in cuts for piece in pieces}) <= len(layout.buckets) + 1 <= 20


def test_few_rows_take_a_half_or_a_quarter_of_a_micro_batch():
    layout, whole = LayoutSpec((10,), 160), 16
    for rows, size in ((16, 16), (9, 16), (8, 8), (5, 8), (4, 4), (1, 4)):
        assert [piece.size for piece in cut(np.full(whole + rows, 7), layout, 2)] == [whole, size]
    assert [piece.size for piece in cut(np.full(17, 7), layout, 16)] == [16, 16]


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

"""Every row once, in a shape that holds it; under 10 % padding on a real spread of lengths."""

import itertools

import numpy as np
import pytest

from configs import stage1, stage2, stage3
from configs.ablations import algorithm
from jaxrl.algorithms.batch import Batch
from jaxrl.flags import plain
from jaxrl.learning.micro_batches import LayoutSpec, cut, length_buckets, padding_share, take
from jaxrl.training.components import update_spec
from jaxrl.training.run_spec import run_spec


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
    assert len({(piece.size, piece.length) for piece in pieces}) <= len(layout.buckets) + 4


LARGE = dict(longest=2048, prompts=(300, 400))


@pytest.mark.parametrize(
    ("config", "size", "shards", "step", "compiled"),
    [
        *[(config, "tiny", 1, dict(rows=256), 2) for config in (stage2, algorithm)],
        *[
            (config, "7b", 4, dict(rows=rows, median=median) | LARGE, 1.3)
            for config, rows in ((stage1, 256), (stage2, 512), (stage3, 128), (algorithm, 256))
            for median in (400, 650)
        ],
    ],
)
def test_under_ten_percent_of_padding_in_few_shapes(config, size, shards, step, compiled):
    """Steps of real lengths as the shipped configs cut them up, and the programs a length that runs of them compile."""
    steps = [spread(seed, **step) for seed in range(40)]
    spec = run_spec(plain(config.get_config(size)))
    assert spec.stages[0].prompts * spec.stages[0].samples == step["rows"]
    layout = update_spec(spec, max(map(max, steps))).layout
    cuts = [
        [piece for part in np.array_split(lengths, spec.minibatches) for piece in cut(part, layout, shards)]
        for lengths in steps
    ]
    assert np.mean([*map(padding_share, steps, cuts)]) < 0.10
    shapes = {(piece.size, piece.length) for pieces in cuts for piece in pieces}
    assert len(shapes) <= compiled * len(layout.buckets) and len(layout.buckets) <= 27


def test_where_lengths_fall_a_micro_batch_is_halved():
    """Four rows of 10, then shorter ones: 8 rows of 10 would be a half padding."""
    pieces = cut(np.array([10] * 4 + [2] * 40), LayoutSpec((2, 10), 80), 1)
    assert [(piece.size, piece.length) for piece in pieces] == [(4, 10), (40, 2)]
    pieces = cut(np.array([10] * 4 + [9] * 36), LayoutSpec((9, 10), 80), 1)  # one more would cost more than it saves
    assert [(piece.size, piece.length) for piece in pieces] == [(8, 10)] + 4 * [(8, 9)]


def test_the_last_rows_take_a_half_or_a_quarter_of_a_micro_batch():
    layout, whole = LayoutSpec((10,), 160), 16
    for rows, sizes in ((16, [16]), (13, [16]), (9, [8, 4]), (8, [8]), (5, [8]), (4, [4]), (1, [4])):
        assert [piece.size for piece in cut(np.full(whole + rows, 7), layout, 2)] == [whole, *sizes]
    assert [piece.size for piece in cut(np.full(17, 7), layout, 16)] == [16, 16]
    assert cut(np.zeros(0, np.int32), layout, 2) == []


def test_take_zeroes_what_lies_beyond_and_fills_up_with_empty_rows():
    nan = np.float32(np.nan)
    batch = Batch(
        np.array([[1, 2, 9, 9], [3, 9, 9, 9]], np.int32),
        np.array([2, 1], np.int32),
        np.array([[0, 1, nan, nan], [1, nan, nan, nan]], np.float32),
        np.full((2, 4), nan, np.float32),
    )
    (piece,) = cut(batch.lengths, LayoutSpec((6,), 18), 3)
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

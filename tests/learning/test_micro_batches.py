"""Micro-batches contain every row once, with less than 10 % padding for realistic lengths."""

import itertools

import numpy as np
import pytest

from configs import stage1, stage2, stage3
from configs.ablations import algorithm
from jaxrl.algorithms.batch import Batch
from jaxrl.command_line import plain
from jaxrl.learning.micro_batches import (
    LayoutSpec,
    gather_rows,
    length_buckets,
    padding_share,
    split_into_micro_batches,
)
from jaxrl.training.components import update_spec
from jaxrl.training.run_spec import run_spec

pytestmark = pytest.mark.check


def random_lengths(seed, rows=256, median=100, longest=512, prompts=(40, 80)):
    """Prompts shared by 16 samples; log-normal responses, truncated at `longest`."""
    rng = np.random.default_rng(seed)
    prompt = rng.integers(*prompts, rows // 16).repeat(16)
    return (prompt + np.clip(rng.lognormal(np.log(median), 0.8, rows), 4, longest)).astype(np.int32)


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_every_row_is_in_one_micro_batch_that_fits_it(shards):
    lengths, layout = random_lengths(0, 48), LayoutSpec(length_buckets(592), 2048)
    micro_batches = split_into_micro_batches(lengths, layout, shards)
    assert sorted(np.concatenate([micro.rows for micro in micro_batches])) == list(range(48))
    for micro in micro_batches:
        assert micro.length in layout.buckets and micro.length >= lengths[micro.rows].max()
        assert micro.size % shards == 0 and len(micro.rows) <= micro.size
    assert len({(micro.size, micro.length) for micro in micro_batches}) <= len(layout.buckets) + 4


@pytest.mark.parametrize(
    ("config", "rows", "median"),
    [
        (config, rows, median)
        for config, rows in ((stage1, 256), (stage2, 512), (stage3, 128), (algorithm, 256))
        for median in (400, 650)
    ],
)
def test_under_ten_percent_of_padding_in_few_shapes(config, rows, median):
    """Realistic lengths at 7B on four row shards; also bounds the number of shapes to compile."""
    steps = [random_lengths(seed, rows, median, longest=2048, prompts=(300, 400)) for seed in range(40)]
    spec = run_spec(plain(config.get_config("7b")))
    assert spec.stages[0].prompts * spec.stages[0].samples == rows
    layout = update_spec(spec, int(max(map(max, steps)))).layout
    splits = [
        [
            micro
            for part in np.array_split(lengths, spec.algorithm.minibatches)
            for micro in split_into_micro_batches(part, layout, 4)
        ]
        for lengths in steps
    ]
    assert np.mean([*map(padding_share, steps, splits)]) < 0.10
    shapes = {(micro.size, micro.length) for micro_batches in splits for micro in micro_batches}
    assert len(shapes) <= 1.3 * len(layout.buckets) and len(layout.buckets) <= 27


@pytest.mark.parametrize("config", [stage2, algorithm])
def test_the_miniature_compiles_one_program_per_bucket_for_a_fifth_of_padding(config):
    """Compilation takes longer than padding there: responses from 4 to 700 tokens need at most eight programs."""
    spec = run_spec(plain(config.get_config("tiny")))
    steps = [
        random_lengths(seed, median=median, longest=700) for seed, median in enumerate((60, 100, 150, 200, 300) * 8)
    ]
    layout = update_spec(spec, 780).layout
    splits = [split_into_micro_batches(lengths, layout, 1) for lengths in steps]
    shapes = {(micro.size, micro.length) for micro_batches in splits for micro in micro_batches}
    assert shapes <= set(layout.shapes(1)) and len(layout.shapes(1)) == len(layout.buckets) <= 8
    assert np.mean([*map(padding_share, steps, splits)]) < 0.20


def test_the_forward_pass_has_every_second_bucket_up_to_the_longest_where_shapes_are_few():
    few = LayoutSpec((8, 16, 24, 32), 96, few_shapes=True)
    assert few.for_forward().buckets == (16, 32) and few.shapes(2) == [(12, 8), (6, 16), (4, 24), (2, 32)]
    many = LayoutSpec((8, 16), 32)
    assert many.for_forward() is many and many.shapes(1) == [(1, 8), (2, 8), (4, 8), (1, 16), (2, 16)]


def test_micro_batches_are_halved_where_lengths_fall_fast():
    """Four rows of 10, then short ones: a micro-batch of 8 rows of 10 would be half padding."""
    micro_batches = split_into_micro_batches(np.array([10] * 4 + [2] * 40), LayoutSpec((2, 10), 80), 1)
    assert [(micro.size, micro.length) for micro in micro_batches] == [(4, 10), (40, 2)]
    # Where they fall slowly, one more micro-batch would cost more than it saves.
    micro_batches = split_into_micro_batches(np.array([10] * 4 + [9] * 36), LayoutSpec((9, 10), 80), 1)
    assert [(micro.size, micro.length) for micro in micro_batches] == [(8, 10)] + 4 * [(8, 9)]


def test_the_last_micro_batches_have_a_half_or_a_quarter_of_the_rows():
    layout, full = LayoutSpec((10,), 160), 16
    for rows, sizes in ((16, [16]), (13, [16]), (9, [8, 4]), (8, [8]), (5, [8]), (4, [4]), (1, [4])):
        micro_batches = split_into_micro_batches(np.full(full + rows, 7), layout, 2)
        assert [micro.size for micro in micro_batches] == [full, *sizes]
    assert [micro.size for micro in split_into_micro_batches(np.full(17, 7), layout, 16)] == [16, 16]
    assert split_into_micro_batches(np.zeros(0, np.int32), layout, 2) == []


def test_gather_rows_zeroes_padding_and_adds_empty_rows():
    nan = np.float32(np.nan)
    batch = Batch(
        np.array([[1, 2, 9, 9], [3, 9, 9, 9]], np.int32),
        np.array([2, 1], np.int32),
        np.array([[0, 1, nan, nan], [1, nan, nan, nan]], np.float32),
        np.full((2, 4), nan, np.float32),
    )
    (micro,) = split_into_micro_batches(batch.lengths, LayoutSpec((6,), 18), 3)
    rows = gather_rows(batch, micro)
    assert rows.tokens.tolist() == [[1, 2, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0], [0] * 6]
    assert rows.loss_mask.tolist() == [[0, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [0] * 6]
    assert rows.lengths.tolist() == [2, 1, 1] and rows.old_logp is None


def test_buckets_increase_to_the_longest_and_are_multiples():
    buckets = length_buckets(330, shortest=64, multiple=8, ratio=1.2)
    assert buckets[0] == 64 and buckets[-1] == 336 and all(b % 8 == 0 for b in buckets)
    assert all(right <= left * 1.2 + 8 for left, right in itertools.pairwise(buckets))
    assert length_buckets(100, shortest=200) == (104,)


def test_errors_of_lengths_and_buckets():
    with pytest.raises(ValueError, match="a row of 40 tokens does not fit the longest bucket, 32"):
        split_into_micro_batches(np.array([40]), LayoutSpec((16, 32)), 1)
    with pytest.raises(ValueError, match="increasing lengths"):
        LayoutSpec((32, 16))

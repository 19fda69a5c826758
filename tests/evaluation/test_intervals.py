"""Confidence intervals have their nominal coverage (by simulation) and agree with published numbers."""

import itertools
import math

import numpy as np
import pytest

from jaxrl.evaluation.intervals import (
    clustered_proportion,
    mean_over_seeds,
    mean_pass_at_k,
    paired_difference,
    pass_at_k,
    wilson,
)

TRIALS = 2000


def test_wilson_golden_numbers():
    # Newcombe (1998), Two-sided confidence intervals for the single proportion, table I, method 3.
    for successes, trials, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ):
        estimate = wilson(successes, trials)
        assert estimate.value == successes / trials
        assert (round(estimate.low, 4), round(estimate.high, 4)) == (low, high)
    assert wilson(0, 20).low == 0.0
    assert round(wilson(0, 20).high, 4) == 0.1611
    assert wilson(20, 20).high == 1.0


def test_wilson_without_trials_is_nan_with_the_full_interval():
    value, low, high = wilson(0, 0)
    assert math.isnan(value)
    assert (low, high) == (0.0, 1.0)


@pytest.mark.parametrize("proportion", [0.02, 0.2, 0.5, 0.95])
def test_wilson_coverage(proportion):
    successes = np.random.default_rng(1).binomial(100, proportion, TRIALS)
    intervals = [wilson(int(count), 100) for count in successes]
    covered = np.mean([interval.low <= proportion <= interval.high for interval in intervals])
    assert 0.93 <= covered <= 0.985


@pytest.mark.parametrize(("a", "b"), [(0.3, 0.9), (2.0, 6.0), (40.0, 60.0)])
def test_clustered_proportion_coverage_with_correlated_samples(a, b):
    generator = np.random.default_rng(2)
    covered = naive = 0
    for _ in range(600):
        counts = generator.binomial(8, generator.beta(a, b, 60))
        estimate, flat = clustered_proportion(counts, [8] * 60), wilson(int(counts.sum()), 480)
        covered += estimate.low <= a / (a + b) <= estimate.high
        naive += flat.low <= a / (a + b) <= flat.high
    assert covered / 600 >= 0.93
    if a < 1:  # strongly clustered: an interval that ignores it is far too narrow
        assert naive / 600 < 0.85


@pytest.mark.parametrize("spread", [0.3, 30.0])
def test_clustered_proportion_coverage_with_unequal_clusters(spread):
    """As for responses that show a behaviour: of some prompts many, of others none."""
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(1000):
        trials = generator.binomial(16, generator.beta(0.5, 0.5, 40))
        right = generator.binomial(trials, generator.beta(0.4 * spread, 0.6 * spread, 40))
        estimate = clustered_proportion(right, trials)
        covered += estimate.low <= 0.4 <= estimate.high
    assert covered / 1000 >= 0.93


@pytest.mark.parametrize(("a", "b"), [(0.3, 0.9), (2.0, 6.0), (0.2, 6.0)])
@pytest.mark.parametrize("k", [2, 8])
def test_mean_pass_at_k_coverage(a, b, k):
    # The success probability of a problem is Beta(a, b): E[(1 - p)^k] = B(a, b + k) / B(a, b).
    truth = 1 - math.exp(math.lgamma(b + k) + math.lgamma(a + b) - math.lgamma(b) - math.lgamma(a + b + k))
    generator = np.random.default_rng(8)
    found = [mean_pass_at_k(generator.binomial(8, generator.beta(a, b, 60)), 8, k) for _ in range(400)]
    assert np.mean([low <= truth <= high for _, low, high in found]) >= 0.94


@pytest.mark.parametrize("gain", [0.0, 0.15])
def test_paired_difference_coverage_for_fractions(gain):
    generator = np.random.default_rng(9)
    covered = 0
    for _ in range(1000):
        chance = generator.beta(1, 2, 60) * (1 - gain)
        before, after = generator.binomial(4, chance) / 4, generator.binomial(4, chance + gain) / 4
        result = paired_difference(before, after)
        covered += result.low <= gain <= result.high
    assert covered / 1000 >= 0.94


def test_clustered_proportion_is_narrower_with_more_samples_and_is_wilson_for_one():
    generator = np.random.default_rng(3)
    counts = generator.binomial(8, 0.5, 100)
    eight, one = clustered_proportion(counts, [8] * 100), clustered_proportion(counts > 3, [1] * 100)
    assert eight.high - eight.low < 0.6 * (one.high - one.low)
    assert one == wilson(int((counts > 3).sum()), 100)


def test_pass_at_k_is_the_average_over_all_subsets():
    outcomes = (1, 1, 0, 0, 0, 0, 0)
    for k in range(1, 8):
        subsets = list(itertools.combinations(outcomes, k))
        assert pass_at_k(2, 7, k) == pytest.approx(sum(any(s) for s in subsets) / len(subsets))
    assert pass_at_k(0, 7, 7) == 0.0
    assert mean_pass_at_k([2, 0], 7, 3).value == pytest.approx(pass_at_k(2, 7, 3) / 2)


def test_pass_at_k_requires_enough_samples():
    with pytest.raises(ValueError, match="use more samples"):
        pass_at_k(1, 4, 5)


@pytest.mark.parametrize(("up", "down"), [(0.0, 0.0), (0.02, 0.0), (0.3, 0.1), (0.1, 0.1)])
def test_paired_difference_coverage(up, down):
    generator = np.random.default_rng(4)
    covered = 0
    for _ in range(TRIALS):
        cell = generator.choice(3, 80, p=[up, down, 1 - up - down])  # up, down, unchanged
        before, after = cell == 1, cell == 0
        result = paired_difference(before, after)
        covered += result.low <= up - down <= result.high
    assert covered / TRIALS >= 0.935


def test_paired_difference_uses_the_pairing():
    generator = np.random.default_rng(5)
    before = generator.random(200) < 0.5
    after = before.copy()
    after[np.flatnonzero(~before)[:20]] = True
    result = paired_difference(before, after)
    assert (result.value, result.better, result.worse, result.equal) == (0.1, 20, 0, 180)
    assert 0.05 < result.low < 0.1 < result.high < 0.16
    shuffled = paired_difference(before, generator.permutation(after))
    assert shuffled.high - shuffled.low > 2 * (result.high - result.low)


def test_paired_difference_requires_the_same_problems():
    with pytest.raises(ValueError, match="same problems"):
        paired_difference([0.0, 1.0], [1.0])


def test_mean_over_seeds_golden_numbers():
    # 1 to 5: standard deviation sqrt(2.5); the table of Student's t has 2.776 at 4 degrees of freedom, 12.706 at 1.
    value, low, high = mean_over_seeds([1, 2, 3, 4, 5])
    assert (value, round(low, 3), round(high, 3)) == (3.0, 1.037, 4.963)
    value, low, high = mean_over_seeds([0.4, 0.6])
    assert (round(value, 6), round(low, 3), round(high, 3)) == (0.5, -0.771, 1.771)


def test_mean_over_few_seeds_coverage():
    generator = np.random.default_rng(6)
    found = [mean_over_seeds(generator.normal(0.5, 0.1, 3)) for _ in range(TRIALS)]
    assert 0.935 <= np.mean([low <= 0.5 <= high for _, low, high in found]) <= 0.965


def test_one_seed_has_no_interval():
    value, low, high = mean_over_seeds([0.7])
    assert (value, math.isnan(low), math.isnan(high)) == (0.7, True, True)
    with pytest.raises(ValueError, match="at least one seed"):
        mean_over_seeds([])

"""Estimates with confidence intervals: Wilson, Wilson for clustered samples, pass@k, paired differences."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit


class Estimate(NamedTuple):
    """A proportion or a difference of proportions, with the bounds of its interval."""

    value: float
    low: float
    high: float


class PairedDifference(NamedTuple):
    """Mean of after - before over the same problems, its interval, and the number of problems that improved, got worse
    and stayed equal."""

    value: float
    low: float
    high: float
    better: int
    worse: int
    equal: int


def critical_value(confidence: float) -> float:
    """The two-sided normal quantile, 1.96 for confidence 0.95. Raises ValueError outside (0, 1)."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"expected a confidence between 0 and 1, such as 0.95, got {confidence}")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson(successes: float, trials: float, confidence: float = 0.95) -> Estimate:
    """Wilson's score interval of a proportion. Unlike p +- 2 sqrt(pq/n) it keeps its coverage near 0 and 1.

    Source: E. B. Wilson (1927), Probable inference, the law of succession, and statistical inference.
    Without trials the value is nan and the interval [0, 1]. Raises ValueError unless 0 <= successes <= trials.
    """
    if trials < 0 or not 0 <= successes <= trials:
        raise ValueError(f"expected 0 <= successes <= trials, got {successes} of {trials}")
    z = critical_value(confidence)
    if trials == 0:
        return Estimate(math.nan, 0.0, 1.0)
    p = successes / trials
    scale = 1.0 + z * z / trials
    centre = (p + z * z / (2 * trials)) / scale
    reach = z / scale * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    low = 0.0 if successes == 0 else max(0.0, centre - reach)
    high = 1.0 if successes == trials else min(1.0, centre + reach)
    return Estimate(p, low, high)


def clustered_proportion(correct: Sequence[int], trials: Sequence[int], confidence: float = 0.95) -> Estimate:
    """Proportion of correct trials, with an interval that accounts for the correlation between trials of one problem.

    correct[i] of the trials[i] trials of problem i are correct. Treating all trials as independent would give too
    narrow an interval. The variance between problems (of the ratio estimator) gives the effective number of trials,
    n_eff = p (1 - p) / var, clipped to between the number of problems and of trials; the interval is Wilson's at n_eff.
    Source: Franco, Little, Louis, Slud (2019), Comparative study of confidence intervals for proportions in complex
    sample surveys.
    """
    right, count = np.asarray(correct, np.float64), np.asarray(trials, np.float64)
    if right.shape != count.shape or right.ndim != 1 or (right < 0).any() or (right > count).any():
        raise ValueError("expected 0 <= correct[i] <= trials[i] for every problem i, in arrays of one length")
    problems, total = int((count > 0).sum()), float(count.sum())
    if total == 0:
        return wilson(0, 0, confidence)
    p = float(right.sum()) / total
    effective = float(problems)
    if problems > 1 and 0.0 < p < 1.0:
        variance = float(((right - p * count) ** 2).sum()) * problems / (problems - 1) / total**2
        effective = min(max(p * (1 - p) / variance, effective), total) if variance > 0 else total
    estimate = wilson(p * effective, effective, confidence)
    return Estimate(p, estimate.low, estimate.high)


def mean_over_seeds(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Mean of one value per seed, with Student's t interval for the mean over all seeds.

    The interval assumes approximately normal values and is based on the variance between seeds alone. For a single
    value the bounds are nan. Source: Student (1908), The probable error of a mean. Raises ValueError for no value.
    """
    array = np.asarray(values, np.float64)
    if len(array) == 0:
        raise ValueError("expected at least one seed for a mean over seeds, got none")
    mean, count = float(array.mean()), len(array)
    if count == 1:
        return Estimate(mean, math.nan, math.nan)
    reach = float(stdtrit(count - 1, 0.5 + confidence / 2) * array.std(ddof=1)) / math.sqrt(count)
    return Estimate(mean, mean - reach, mean + reach)


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Unbiased estimate of the probability that at least one of k samples is correct, from `correct` of `samples`.

    1 - C(n - c, k) / C(n, k) as a product. Source: Chen et al. (2021), Evaluating large language models trained on
    code, equation 1. Raises ValueError unless 1 <= k <= samples and 0 <= correct <= samples.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@k: expected 1 <= k <= samples, got k={k} with {samples} samples; use more samples")
    if not 0 <= correct <= samples:
        raise ValueError(f"expected 0 <= correct <= samples, got {correct} of {samples}")
    if samples - correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / n for n in range(samples - correct + 1, samples + 1))


def mean_pass_at_k(correct: Sequence[int], samples: int, k: int, confidence: float = 0.95) -> Estimate:
    """Mean of `pass_at_k` over problems, with Wilson's interval for one trial per problem (conservative)."""
    counts = np.asarray(correct, np.float64)
    if len(counts) == 0:
        return wilson(0, 0, confidence)
    value = float(np.mean([pass_at_k(int(c), samples, k) for c in counts]))
    estimate = wilson(value * len(counts), len(counts), confidence)
    return Estimate(value, estimate.low, estimate.high)


def paired_difference(before: Sequence[float], after: Sequence[float], confidence: float = 0.95) -> PairedDifference:
    """Mean of after - before over the same problems in the same order; values are accuracies in [0, 1].

    One pseudo-observation of +1 and one of -1 are added before the normal interval is computed, so that it has a width
    if no problem (or every problem) changed. For values of 0 and 1 this is exactly Bonett and Price (2012), Adjusted
    Wald confidence interval for a difference of binomial proportions based on paired data; for fractions it is slightly
    too wide. Raises ValueError for unequal lengths or no problem.
    """
    first, second = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(
            f"paired difference: expected the same problems before and after, got {first.shape} and {second.shape}"
        )
    if len(first) == 0:
        raise ValueError("paired difference: expected at least one problem, got none")
    difference = second - first
    padded = np.concatenate([difference, [1.0, -1.0]])
    centre = float(padded.mean())
    reach = critical_value(confidence) * math.sqrt(float(padded.var()) / len(padded))
    value = float(difference.mean())
    return PairedDifference(
        value=value,
        low=max(-1.0, min(value, centre - reach)),
        high=min(1.0, max(value, centre + reach)),
        better=int((difference > 0).sum()),
        worse=int((difference < 0).sum()),
        equal=int((difference == 0).sum()),
    )

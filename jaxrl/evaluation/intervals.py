"""Estimates with intervals: Wilson, Wilson for clustered samples, pass@k, paired differences."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit


class Estimate(NamedTuple):
    """A share or a difference of shares, with the ends of its interval."""

    value: float
    low: float
    high: float


class PairedDifference(NamedTuple):
    """Mean of after - before over the same puzzles, its interval, and how many puzzles went up and down."""

    value: float
    low: float
    high: float
    better: int
    worse: int
    equal: int


def critical_value(confidence: float) -> float:
    """The two-sided normal quantile, 1.96 for confidence 0.95. ValueError outside (0, 1)."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}; 0.95 is usual")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson(successes: float, trials: float, confidence: float = 0.95) -> Estimate:
    """Wilson's score interval of a share; unlike p +- 2 sqrt(pq/n) it stays honest near 0 and 1.

    Source: E. B. Wilson (1927), Probable inference, the law of succession, and statistical inference.
    With no trials nothing is known: value nan, interval [0, 1]. ValueError unless 0 <= successes <= trials.
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


def clustered_share(correct: Sequence[int], trials: Sequence[int], confidence: float = 0.95) -> Estimate:
    """Share of right trials, with an interval that knows that the trials of one puzzle resemble each other.

    correct[i] of trials[i] trials of puzzle i are right. All trials taken as independent would promise too
    much. The variance between puzzles (of the ratio estimator) gives the effective number of trials, n_eff =
    p (1 - p) / var, held between the number of puzzles and of trials, and Wilson's interval is taken at
    n_eff. Source: Franco, Little, Louis, Slud (2019), Comparative study of confidence intervals for
    proportions in complex sample surveys.
    """
    right, count = np.asarray(correct, np.float64), np.asarray(trials, np.float64)
    if right.shape != count.shape or right.ndim != 1 or (right < 0).any() or (right > count).any():
        raise ValueError("expected 0 <= correct[i] <= trials[i] for every puzzle, and as many of each")
    puzzles, total = int((count > 0).sum()), float(count.sum())
    if total == 0:
        return wilson(0, 0, confidence)
    p = float(right.sum()) / total
    effective = float(puzzles)
    if puzzles > 1 and 0.0 < p < 1.0:
        variance = float(((right - p * count) ** 2).sum()) * puzzles / (puzzles - 1) / total**2
        effective = min(max(p * (1 - p) / variance, effective), total) if variance > 0 else total
    estimate = wilson(p * effective, effective, confidence)
    return Estimate(p, estimate.low, estimate.high)


def mean_over_seeds(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Mean of one number a seed, with Student's t interval; the spread among seeds is all that it knows of chance.

    It stands for seeds that were not run, and supposes values about normal. Of one value there is no interval: its ends
    are nan. Source: Student (1908), The probable error of a mean. ValueError for no value.
    """
    found = np.asarray(values, np.float64)
    if len(found) == 0:
        raise ValueError("a mean over seeds needs at least one seed, got none")
    mean, count = float(found.mean()), len(found)
    if count == 1:
        return Estimate(mean, math.nan, math.nan)
    reach = float(stdtrit(count - 1, 0.5 + confidence / 2) * found.std(ddof=1)) / math.sqrt(count)
    return Estimate(mean, mean - reach, mean + reach)


def average_at_k(correct: Sequence[int], samples: int, confidence: float = 0.95) -> Estimate:
    """avg@k: the mean accuracy of `samples` samples a puzzle; correct[i] = right samples of puzzle i."""
    counts = _checked_counts(correct, samples)
    return clustered_share(counts, np.full_like(counts, samples), confidence)


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Unbiased chance that at least one of k samples is right, from `correct` right of `samples` drawn.

    1 - C(n - c, k) / C(n, k) as a product. Source: Chen et al. (2021), Evaluating large language models
    trained on code, equation 1. ValueError unless 1 <= k <= samples and 0 <= correct <= samples.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@k needs 1 <= k <= samples, got k={k} with {samples} samples; draw more samples")
    if not 0 <= correct <= samples:
        raise ValueError(f"expected 0 <= correct <= samples, got {correct} of {samples}")
    if samples - correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / n for n in range(samples - correct + 1, samples + 1))


def mean_pass_at_k(correct: Sequence[int], samples: int, k: int, confidence: float = 0.95) -> Estimate:
    """Mean of `pass_at_k` over puzzles; the interval is Wilson's with one trial a puzzle (never too
    narrow)."""
    counts = _checked_counts(correct, samples)
    if len(counts) == 0:
        return wilson(0, 0, confidence)
    value = float(np.mean([pass_at_k(int(c), samples, k) for c in counts]))
    estimate = wilson(value * len(counts), len(counts), confidence)
    return Estimate(value, estimate.low, estimate.high)


def paired_difference(before: Sequence[float], after: Sequence[float], confidence: float = 0.95) -> PairedDifference:
    """Mean of after - before over the same puzzles in the same order; entries are accuracies in [0, 1].

    One pseudo-puzzle that went up and one that went down are added before the normal interval is taken, so
    that it does not collapse to a point when nothing (or everything) changed. For entries of 0 and 1 this is
    exactly Bonett and Price (2012), Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data; for shares it is a little wide. ValueError for unequal lengths or no
    puzzle.
    """
    first, second = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(
            f"a paired difference needs the same puzzles on both sides, got {first.shape} and {second.shape}"
        )
    if len(first) == 0:
        raise ValueError("a paired difference needs at least one puzzle, got none")
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


def _checked_counts(correct: Sequence[int], samples: int) -> np.ndarray:
    counts = np.asarray(correct, np.float64)
    if samples < 1:
        raise ValueError(f"expected at least one sample a puzzle, got {samples}")
    if counts.size and (counts.min() < 0 or counts.max() > samples):
        raise ValueError(f"expected 0 to {samples} right samples a puzzle, got {counts.min():g} to {counts.max():g}")
    return counts

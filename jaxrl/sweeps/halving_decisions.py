"""Which settings of a sweep are not worth going on with: successive halving that lets doubtful cases live."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxrl.evaluation.intervals import Estimate
from jaxrl.evaluation.results import EvaluationResult, rows


class Stop(NamedTuple):
    """A setting that was stopped after `step`, and the worst of those that stayed, `kept`, with what it had then."""

    setting: str
    step: int
    accuracy: Estimate
    kept: str
    bar: Estimate


def losers(step: int, found: Mapping[str, Sequence[EvaluationResult]]) -> list[Stop]:
    """The settings to be stopped after `step`, the worst last; found: setting -> the evaluations of its seeds then.

    Those in the worse half by held-out accuracy (over all kinds, sampled where samples are drawn, all seeds together)
    whose 95 % interval ends below where that of the worst in the better half begins. The intervals know of problems and
    draws, not of seeds that were not run. Successive halving: Jamieson and Talwalkar (2016), arXiv 1502.07943; that
    settings live on while intervals overlap is added here, for two or three seeds are few to lose by.
    """
    accuracy = {setting: _accuracy(results) for setting, results in found.items()}
    order = sorted(accuracy, key=lambda setting: accuracy[setting].value, reverse=True)
    half = (len(order) + 1) // 2
    last = order[half - 1]
    return [
        Stop(setting, step, accuracy[setting], last, accuracy[last])
        for setting in order[half:]
        if accuracy[setting].high < accuracy[last].low
    ]


def _accuracy(results: Sequence[EvaluationResult]) -> Estimate:
    items = tuple(itertools.chain.from_iterable(result.items for result in results))
    return rows(dataclasses.replace(results[0], items=items))[-1].accuracy

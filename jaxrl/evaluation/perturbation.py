"""Accuracy on perturbed problems beside that on the originals: a model that reasons is right on both.

Source: Xie et al. 2024, On memorization of large language models in logical reasoning, arXiv 2410.23123, section 2.1.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from jaxrl.evaluation.intervals import Estimate, PairedDifference, clustered_proportion, paired_difference, wilson
from jaxrl.evaluation.results import ALL, MODES, EvaluationResult, Item, Mode, Twin, format_estimate
from jaxrl.tasks.problem import kind_label, kind_order
from jaxrl.tasks.puzzle_problems import PerturbedProblem

PERTURBATION_HEADS = (
    *("kind", "perturbation", "mode", "pairs", "accuracy", "after the change", "difference"),
    *("consistent", "local inconsistency"),
)


class PerturbationRow(NamedTuple):
    """Problems of a kind with one perturbation, in one mode. Problems that could not be perturbed are left out."""

    kind: str
    perturbation: str
    mode: Mode
    pairs: int
    problems: int  # of the kind, with those that are left out
    original: Estimate  # accuracy on the originals of the pairs
    perturbed: Estimate
    difference: PairedDifference  # perturbed - original
    consistency: (
        Estimate  # CR: among correct responses to originals, how many are correct for the perturbed problem too
    )
    local_inconsistency: Estimate  # LiMem = accuracy * (1 - CR): original correct, perturbed wrong


def separate_twins(result: EvaluationResult, perturbed: Sequence[PerturbedProblem]) -> EvaluationResult:
    """An evaluation of problems, followed by their perturbed versions, as items and twins."""
    count = len(result.items) - len(perturbed)
    items = result.items[:count]
    twins = tuple(
        Twin(problem.perturbation, items[problem.original].problem, item)
        for problem, item in zip(perturbed, result.items[count:], strict=True)
    )
    return replace(result, items=items, twins=twins)


def perturbation_rows(result: EvaluationResult, confidence: float = 0.95) -> list[PerturbationRow]:
    """The rows by kind, perturbation and mode; then those over all kinds if there are several."""
    originals = {item.problem: item for item in result.items}
    kinds = sorted({item.kind for item in result.items}, key=kind_order)
    found = []
    for kind in kinds + [ALL] * (len(kinds) > 1):
        problems = sum(kind in (ALL, item.kind) for item in result.items)
        for perturbation in dict.fromkeys(twin.perturbation for twin in result.twins):
            pairs = [
                (originals[twin.original], twin.item)
                for twin in result.twins
                if twin.perturbation == perturbation and kind in (ALL, twin.item.kind)
            ]
            found += [
                _row(kind, perturbation, mode, pairs, problems, confidence)
                for mode in MODES
                if pairs and getattr(pairs[0][0], mode)
            ]
    return found


def _row(
    kind: str, perturbation: str, mode: Mode, pairs: list[tuple[Item, Item]], problems: int, confidence: float
) -> PerturbationRow:
    """With several samples, original and perturbed responses are independent: a pair of them is consistent with the
    product of the two accuracies."""
    samples = len(getattr(pairs[0][0], mode))
    right = np.array([[_correct(getattr(item, mode)) for item in pair] for pair in pairs])
    before, after = right[:, 0] / samples, right[:, 1] / samples
    sizes = [samples] * len(pairs)
    return PerturbationRow(
        kind,
        perturbation,
        mode,
        len(pairs),
        problems,
        clustered_proportion(right[:, 0], sizes, confidence),
        clustered_proportion(right[:, 1], sizes, confidence),
        paired_difference(before, after, confidence),
        clustered_proportion(right[:, 0] * after, right[:, 0], confidence),
        wilson(float((before * (1 - after)).sum()), len(pairs), confidence),
    )


def _correct(samples: Sequence) -> int:
    return sum(sample.verdict == "correct" for sample in samples)


def perturbation_cells(result: EvaluationResult) -> list[list[str]]:
    """The rows under PERTURBATION_HEADS."""
    return [
        [
            kind_label(row.kind),
            row.perturbation,
            row.mode,
            str(row.pairs) if row.pairs == row.problems else f"{row.pairs} of {row.problems}",
            format_estimate(row.original),
            format_estimate(row.perturbed),
            f"{100 * row.difference.value:+.1f} [{100 * row.difference.low:+.1f}, {100 * row.difference.high:+.1f}]",
            format_estimate(row.consistency),
            format_estimate(row.local_inconsistency),
        ]
        for row in perturbation_rows(result)
    ]


def perturbation_markdown(result: EvaluationResult) -> str:
    """The rows as a table; "" if nothing was perturbed."""
    if not result.twins:
        return ""
    lines = [
        "",
        "The same problems with one change each (arXiv 2410.23123):",
        "",
        f"| {' | '.join(PERTURBATION_HEADS)} |",
        "|---" * len(PERTURBATION_HEADS) + "|",
    ]
    lines += [f"| {' | '.join(cells)} |" for cells in perturbation_cells(result)]
    return "\n".join(lines) + "\n"

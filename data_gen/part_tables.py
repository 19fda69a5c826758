"""What a speaker may claim, and with which probability: tables that the sampler of puzzles selects from."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from data_gen.puzzle import LEAVES, Statement
from data_gen.solve import combine, full_table, person_tables

# The probability that a claim is about its own speaker. It makes a fifth of all statements in accepted puzzles mention
# their speaker; see docs/puzzles.md.
OWN_CLAIMS = 0.15

Part = tuple[Statement, int, int]
"""(statement, truth table, persons it refers to as bits)"""

Choices = tuple[list[float], list]
"""(cumulative probabilities, what is selected)"""


class PartTables(NamedTuple):
    """The parts of a statement by depth.

    claims: "tells-truth" and "lies" -> claims of that kind. leaf: claims. shallow: parts of depth 0 and 1; the second
    has no "not". A choice in `shallow` is a Part, or (operator, size) if the operator has more than two operands.
    """

    claims: dict[str, Choices]
    leaf: Choices
    shallow: tuple[Choices, Choices]


def choices(weights: Sequence[tuple[Any, float]]) -> Choices:
    """The table of (choice, weight) pairs, without choices of weight 0."""
    used = [(choice, weight) for choice, weight in weights if weight > 0]
    total = sum(weight for _, weight in used)
    ends, cumulative = [], 0.0
    for _, weight in used:
        cumulative += weight / total
        ends.append(cumulative)
    ends[-1:] = [1.0] * bool(ends)
    return ends, [choice for choice, _ in used]


@lru_cache(maxsize=512)
def part_tables(
    people: int, width: int, operators: tuple[tuple[str, float], ...], speaker: int | None = None
) -> PartTables:
    """The tables of a speaker, or, without one, tables in which all persons are equally frequent.

    A claim is about its speaker with probability OWN_CLAIMS, and then says that the speaker tells the truth. (If no
    claims of that kind are allowed, it says that the speaker lies.) With two people, where every operator is about
    both, operators have all claims: otherwise there would be only 47 puzzles of depth 1.
    """
    weights = dict(operators)
    kinds = {name: weights[name] for name in LEAVES}
    if not sum(kinds.values()):
        kinds = dict.fromkeys(LEAVES, 1.0)
    own = 0 if speaker is None else 1 << speaker
    honest, full = person_tables(people), full_table(people)
    claims = {
        "tells-truth": [(("tells-truth", i), honest[i], 1 << i) for i in range(people)],
        "lies": [(("lies", i), full ^ honest[i], 1 << i) for i in range(people)],
    }
    by_kind = {
        name: list(zip(claims[name], person_weights, strict=True))
        for name, person_weights in _person_weights(people, kinds, speaker).items()
    }
    leaves = [(leaf, kinds[name] * weight) for name in LEAVES for leaf, weight in by_kind[name]]
    every = [(leaf, kinds[name]) for name in LEAVES for leaf in claims[name]]
    joined = _joined(_pairs(every if people == 2 else leaves, own), width, weights, full)
    bare = [(leaf, weights[name] * weight) for name in LEAVES for leaf, weight in by_kind[name]]
    negations = _negations(leaves, own, weights["not"], full)
    return PartTables(
        {name: choices(by_kind[name]) for name in LEAVES},
        choices(leaves),
        (choices(bare + negations + joined), choices(bare + joined)),
    )


def _person_weights(people: int, kinds: dict[str, float], speaker: int | None) -> dict[str, list[float]]:
    """For each kind of claim, the weight of every person; the weights of a kind have the sum 1."""
    if speaker is None:
        return {name: [1 / people] * people for name in LEAVES}
    own = dict.fromkeys(LEAVES, 0.0)
    kind = "tells-truth" if kinds["tells-truth"] else "lies"  # without the former, only "lies" can be about the speaker
    own[kind] = min(OWN_CLAIMS * sum(kinds.values()) / kinds[kind], 0.5)
    return {
        name: [own[name] if i == speaker else (1 - own[name]) / (people - 1) for i in range(people)] for name in LEAVES
    }


def _negations(leaves: list[tuple[Part, float]], own: int, share: float, full: int) -> list[tuple[tuple, float]]:
    """The negated claims, with the sum `share`."""
    used = [(leaf, weight) for leaf, weight in leaves if leaf[2] != own]
    total = sum(weight for _, weight in used)
    return [((("not", leaf[0]), full ^ leaf[1], leaf[2]), share * weight / total) for leaf, weight in used]


def _pairs(leaves: list[tuple[Part, float]], own: int) -> list[tuple[Part, Part, float]]:
    """Pairs of claims about different persons; the sum of their weights is 1."""
    pairs = [(a, b, x * y) for a, x in leaves for b, y in leaves if a[2] != b[2] and x * y > 0]
    if not own:
        total = sum(weight for *_, weight in pairs)
        return [(a, b, weight / total) for a, b, weight in pairs]
    # Each of the two claims is about the speaker with probability OWN_CLAIMS, unless all pairs or none are.
    sums = [0.0, 0.0]
    for a, b, weight in pairs:
        sums[bool((a[2] | b[2]) & own)] += weight
    shares = (1 - 2 * OWN_CLAIMS, 2 * OWN_CLAIMS) if all(sums) else (1.0, 1.0)
    scaled = []
    for a, b, weight in pairs:
        mentions = bool((a[2] | b[2]) & own)
        scaled.append((a, b, shares[mentions] * weight / sums[mentions]))
    return scaled


def _joined(
    pairs: list[tuple[Part, Part, float]], width: int, weights: dict[str, float], full: int
) -> list[tuple[tuple, float]]:
    """Operators over claims; one over more than two claims stays (name, size)."""
    found: list[tuple[tuple, float]] = []
    for name in ("and", "or", "implies", "iff"):
        sizes = width - 1 if name in ("and", "or") else 1
        share = weights[name] / sizes
        if share > 0:
            found += [
                (((name, a[0], b[0]), combine(name, (a[1], b[1]), full), a[2] | b[2]), share * weight)
                for a, b, weight in pairs
            ]
            found += [((name, size), share) for size in range(3, sizes + 2)]
    return found

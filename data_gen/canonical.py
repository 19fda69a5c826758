"""Canonical forms: one string for all puzzles that are equal up to renaming people and reordering operands."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b

from data_gen.puzzle import MOST_PEOPLE, Statement

_CODES = {"not": "n", "and": "a", "or": "o", "implies": "i", "iff": "e"}
_COMMUTATIVE = ("and", "or", "iff")
_HONEST, _LYING = [[f"{code}{label}" for label in range(MOST_PEOPLE)] for code in "TF"]


def canonical(statements: Sequence[Statement]) -> str:
    """The canonical form: equal for two puzzles if and only if one is the other with people renamed and operands of
    and, or and iff reordered.

    Colour refinement with individualization: where people share a colour, each is tried (except interchangeable ones),
    and the least string is returned. Source: McKay and Piperno 2014, Practical graph isomorphism, II.
    """
    return _search(tuple(statements), [0] * len(statements))


def split_of(form: str, seed: int, shares: Mapping[str, float] | Sequence[tuple[str, float]]) -> str:
    """The split of a canonical form, by hash: no form is in two splits.

    shares: split name -> share, relative to their sum. Raises ValueError if no share is above 0.
    """
    pairs = list(shares.items()) if isinstance(shares, Mapping) else list(shares)
    total = sum(share for _, share in pairs)
    if not pairs or total <= 0 or any(share < 0 for _, share in pairs):
        raise ValueError(f"expected shares of 0 or more, one of them above 0, got {pairs!r}.")
    digest = blake2b(f"{seed}|{form}".encode(), digest_size=8).digest()
    position = int.from_bytes(digest, "big") / 2**64 * total
    cumulative = 0.0
    for name, share in pairs:
        cumulative += share
        if position < cumulative:
            return name
    return [name for name, share in pairs if share > 0][-1]


def _encode_all(statements: Sequence[Statement], labels: Sequence[int]) -> list[str]:
    """The statements with people replaced by labels and commutative operands sorted; a speaker's own label is "s"."""
    honest = [_HONEST[label] for label in labels]
    lying = [_LYING[label] for label in labels]
    leaves = {"tells-truth": honest, "lies": lying}
    encoded = []
    for speaker, statement in enumerate(statements):
        saved = honest[speaker], lying[speaker]
        honest[speaker], lying[speaker] = "Ts", "Fs"
        encoded.append(_encode(statement, leaves))
        honest[speaker], lying[speaker] = saved
    return encoded


def _encode(statement: Statement, leaves: dict[str, list[str]]) -> str:
    name = statement[0]
    if name in leaves:
        return leaves[name][statement[1]]
    parts = [leaves[part[0]][part[1]] if part[0] in leaves else _encode(part, leaves) for part in statement[1:]]
    if name in _COMMUTATIVE:
        parts.sort()
    return f"{_CODES[name]}({','.join(parts)})"


def _refine(statements: tuple[Statement, ...], colours: list[int]) -> list[int]:
    """Split colours by the encoded statements until stable; colour numbers do not depend on the order of people."""
    kinds = len(set(colours))
    while kinds < len(colours):
        marks = list(zip(colours, _encode_all(statements, colours), strict=True))
        order = {mark: rank for rank, mark in enumerate(sorted(set(marks)))}
        colours = [order[mark] for mark in marks]
        if len(order) == kinds:
            break
        kinds = len(order)
    return colours


def _search(statements: tuple[Statement, ...], colours: list[int]) -> str:
    colours = _refine(statements, colours)
    cells: dict[int, list[int]] = {}
    for person, colour in enumerate(colours):
        cells.setdefault(colour, []).append(person)
    shared = [colour for colour, members in sorted(cells.items()) if len(members) > 1]
    if not shared:
        # All colours differ: they are ranks, and serve as labels.
        return ";".join(text for _, text in sorted(zip(colours, _encode_all(statements, colours), strict=True)))
    colour, members = shared[0], cells[shared[0]]
    forms = []
    for index, person in enumerate(members):
        if any(_interchangeable(statements, person, earlier) for earlier in members[:index]):
            continue
        individualized = [rank + (rank > colour or (rank == colour and i != person)) for i, rank in enumerate(colours)]
        forms.append(_search(statements, individualized))
    return min(forms)


def _interchangeable(statements: tuple[Statement, ...], first: int, second: int) -> bool:
    """Whether swapping two people leaves the puzzle unchanged."""
    labels = list(range(len(statements)))
    before = _encode_all(statements, labels)
    labels[first], labels[second] = second, first
    after = _encode_all(statements, labels)
    after[first], after[second] = after[second], after[first]
    return before == after

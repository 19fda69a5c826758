"""A solver on truth tables.

A table is an integer: its bit a is the value under assignment a, and bit i of a is 1 if person i tells the truth.
"""

from collections.abc import Sequence
from functools import cache

from data_gen.puzzle import Statement


@cache
def person_tables(people: int) -> tuple[int, ...]:
    """The tables of "person i tells the truth" for every i, 2**people bits each."""
    full = full_table(people)
    return tuple((full // ((1 << (1 << i)) + 1)) << (1 << i) for i in range(people))


def full_table(people: int) -> int:
    """The table that is true under all assignments."""
    return (1 << (1 << people)) - 1


def table_of(statement: Statement, people: int) -> int:
    """The truth table of a statement over all 2**people assignments."""
    name = statement[0]
    if name == "tells-truth":
        return person_tables(people)[statement[1]]
    full = full_table(people)
    if name == "lies":
        return full ^ person_tables(people)[statement[1]]
    tables = [table_of(part, people) for part in statement[1:]]
    return combine(name, tables, full)


def combine(name: str, tables: Sequence[int], full: int) -> int:
    """The table of operator `name` over the tables of its operands."""
    table = tables[0]
    if name == "and":
        for other in tables[1:]:
            table &= other
        return table
    if name == "or":
        for other in tables[1:]:
            table |= other
        return table
    if name == "not":
        return full ^ table
    if name == "implies":
        return (full ^ table) | tables[1]
    return full ^ table ^ tables[1]


def consistent_tables(statements: Sequence[Statement]) -> list[int]:
    """One table per person: the assignments in which the person is honest if and only if the statement is true."""
    people = len(statements)
    full = full_table(people)
    return [
        full ^ honest ^ table_of(statement, people)
        for honest, statement in zip(person_tables(people), statements, strict=True)
    ]


def solutions(statements: Sequence[Statement]) -> list[int]:
    """All assignments consistent with all statements, ascending; bit i is set if person i tells the truth."""
    table = full_table(len(statements))
    for consistent in consistent_tables(statements):
        table &= consistent
    found = []
    while table:
        lowest = table & -table
        found.append(lowest.bit_length() - 1)
        table ^= lowest
    return found


def holds(statement: Statement, solution: Sequence[bool]) -> bool:
    """Whether a statement is true if person i tells the truth exactly when solution[i]."""
    name, parts = statement[0], statement[1:]
    if name == "tells-truth":
        return bool(solution[parts[0]])
    if name == "lies":
        return not solution[parts[0]]
    if name == "not":
        return not holds(parts[0], solution)
    if name == "and":
        return all(holds(part, solution) for part in parts)
    if name == "or":
        return any(holds(part, solution) for part in parts)
    first, second = (holds(part, solution) for part in parts)
    return (not first or second) if name == "implies" else first == second


def persons_in(statement: Statement) -> set[int]:
    """The persons that a statement refers to."""
    if isinstance(statement[1], int):
        return {statement[1]}
    return set().union(*(persons_in(part) for part in statement[1:]))


def hardness(statements: Sequence[Statement]) -> int:
    """Number of branches that a case-splitting solver explores to prove that the solution is unique.

    The solver uses forward reasoning only. A person whose role is known makes the statement true or false, which may
    determine the roles of the persons it refers to; a statement whose value is known determines its speaker. If nothing
    follows, the solver branches on the first undecided person (in the order of speaking): honest, then lying. A branch
    closes at a contradiction. All branches are explored.
    """
    people = len(statements)
    tables = [table_of(statement, people) for statement in statements]
    mentioned = [sum(1 << person for person in persons_in(statement)) for statement in statements]
    return count_branches(tables, mentioned)


def count_branches(tables: Sequence[int], mentioned: Sequence[int]) -> int:
    """`hardness`, from the statements' tables; mentioned[i] has a bit for every person that statement i refers to."""
    people = len(tables)
    full = full_table(people)
    honest = person_tables(people)
    watchers = [1 << person for person in range(people)]
    for speaker, persons in enumerate(mentioned):
        for person in range(people):
            if persons >> person & 1:
                watchers[person] |= 1 << speaker
    opened = 0
    everybody = (1 << people) - 1
    stack = [(full, everybody, 0)]
    while stack:
        known, undecided, waiting = stack.pop()
        while waiting and known:
            bit = waiting & -waiting
            waiting ^= bit
            speaker = bit.bit_length() - 1
            fits = tables[speaker] & known
            if undecided & bit:
                if fits and fits != known:
                    continue
                candidates = bit  # the statement's value is known: the speaker is honest if it is true
            else:
                if not known & honest[speaker]:
                    fits ^= known
                if not fits:
                    known = 0
                candidates = mentioned[speaker] & undecided
            while candidates and known:
                bit = candidates & -candidates
                candidates ^= bit
                person = bit.bit_length() - 1
                possible = fits if undecided & 1 << speaker else fits & honest[person]
                if possible and possible != fits:
                    continue
                known &= honest[person] if possible else full ^ honest[person]
                undecided ^= bit
                waiting |= watchers[person]
        if known and undecided:
            bit = undecided & -undecided
            person = bit.bit_length() - 1
            opened += 2
            for side in (full ^ honest[person], honest[person]):
                stack.append((known & side, undecided ^ bit, watchers[person]))
    return opened

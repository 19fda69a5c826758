"""Truth tables as whole numbers: bit a of a table is the value under assignment a; bit i of a is person i's
honesty."""

from collections.abc import Sequence
from functools import cache

from data_gen.puzzle import Statement


@cache
def person_tables(people: int) -> tuple[int, ...]:
    """The table of "person i tells the truth" for every i, each 2**people bits."""
    full = full_table(people)
    return tuple((full // ((1 << (1 << i)) + 1)) << (1 << i) for i in range(people))


def full_table(people: int) -> int:
    """The table that is true under every assignment."""
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


def rules(statements: Sequence[Statement]) -> list[int]:
    """One table a person: the assignments under which the person is honest exactly when the statement is
    true."""
    people = len(statements)
    full = full_table(people)
    return [full ^ own ^ table_of(said, people) for own, said in zip(person_tables(people), statements, strict=True)]


def solutions(statements: Sequence[Statement]) -> list[int]:
    """Every assignment that fits all statements, rising; bit i of an assignment is set when person i tells
    the truth."""
    table = full_table(len(statements))
    for rule in rules(statements):
        table &= rule
    found = []
    while table:
        lowest = table & -table
        found.append(lowest.bit_length() - 1)
        table ^= lowest
    return found


def holds(statement: Statement, solution: Sequence[bool]) -> bool:
    """Whether a statement is true when person i tells the truth exactly if solution[i]."""
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
    """The persons a statement speaks of."""
    if isinstance(statement[1], int):
        return {statement[1]}
    return set().union(*(persons_in(part) for part in statement[1:]))


def hardness(statements: Sequence[Statement]) -> int:
    """How many branches a plain case-splitting solver opens before it has proved the answer.

    The solver reasons forwards only. A person whose side is known makes the statement known to be true or
    false, and it draws what that forces about each person spoken of; a statement decided by what is known
    gives away its speaker. When neither helps, it supposes that the first undecided person (in the order of
    speaking) tells the truth, then that the person lies: two branches. A branch closes at a contradiction.
    All branches are explored, for the proof that there is no second answer.
    """
    people = len(statements)
    said = [table_of(statement, people) for statement in statements]
    concerns = [sum(1 << person for person in persons_in(statement)) for statement in statements]
    return branches(said, concerns)


def branches(said: Sequence[int], concerns: Sequence[int]) -> int:
    """`hardness` on the statements' tables; concerns[i] has a bit for every person that statement i speaks
    of."""
    people = len(said)
    full = full_table(people)
    honest = person_tables(people)
    watchers = [1 << person for person in range(people)]
    for speaker, persons in enumerate(concerns):
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
            fits = said[speaker] & known
            if undecided & bit:
                if fits and fits != known:
                    continue
                asked = bit  # decided by what is known: the speaker is honest exactly if it is true
            else:
                if not known & honest[speaker]:
                    fits ^= known
                if not fits:
                    known = 0
                asked = concerns[speaker] & undecided
            while asked and known:
                bit = asked & -asked
                asked ^= bit
                person = bit.bit_length() - 1
                told = fits if undecided & 1 << speaker else fits & honest[person]
                if told and told != fits:
                    continue
                known &= honest[person] if told else full ^ honest[person]
                undecided ^= bit
                waiting |= watchers[person]
        if known and undecided:
            bit = undecided & -undecided
            person = bit.bit_length() - 1
            opened += 2
            for side in (full ^ honest[person], honest[person]):
                stack.append((known & side, undecided ^ bit, watchers[person]))
    return opened

"""The specification of a kind of puzzle, and bounds on how many such puzzles exist."""

from dataclasses import dataclass
from math import comb, log, perm

from data_gen.names import NAME_SETS, ROLES, names_of
from data_gen.puzzle import LEAVES, OPERATORS

WORDINGS = ("classic", "varied", "plain")

# Both leaves together have the weight of one operator.
EQUAL_SHARES = (
    ("tells-truth", 0.5), ("lies", 0.5), ("not", 1.0), ("and", 1.0),
    ("or", 1.0), ("implies", 1.0), ("iff", 1.0),
)  # fmt: skip

MAX_CLAIMS = 144  # leaves per statement: 12 people at width 12 and depth 2


@dataclass(frozen=True)
class PuzzleSpec:
    """A kind of puzzle. Raises ValueError if no such puzzle exists.

    people: 2 to 12.
    depth: maximum nesting depth of operators, 1 to 4; 1: at most one operator in a statement. A leaf is always allowed.
    width: maximum operands of "and" and "or", 2 to people.
    operators: (name, weight) of the seven operators at every level; 0 if omitted. At full depth only leaves compete.
    hardness: minimum and maximum of `solve.hardness`, or None.
    wording: "classic" (knights and knaves, one phrasing for each operator, many ways to quote a person), "varied" (also
      other role words and many phrasings for each operator; the same statements as "classic"), or "plain" (one phrasing
      for everything, 12 names).
    unique: "canonical" (no two puzzles are equal up to renaming people and reordering operands) or "text" (no two
      puzzles have the same statements and names).
    names: "english" (ASCII first names) or "world" (also accents, hyphens, two words and other scripts).
    first_person: whether speakers say "I" when a claim is about themselves, instead of their name.
    """

    people: int
    depth: int = 1
    width: int = 2
    operators: tuple[tuple[str, float], ...] = EQUAL_SHARES
    hardness: tuple[int, int] | None = None
    wording: str = "classic"
    unique: str = "canonical"
    names: str = "english"
    first_person: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.people <= 12:
            reason = "; no puzzle of one person has exactly one solution" if self.people == 1 else ""
            raise ValueError(f"expected 2 to 12 people, got {self.people}{reason}.")
        if not 1 <= self.depth <= 4:
            raise ValueError(f"expected a depth from 1 to 4, got {self.depth}.")
        if not 2 <= self.width <= self.people:
            raise ValueError(
                f"expected a width from 2 to the number of people ({self.people}), got {self.width}: a wider statement "
                "would have equal operands."
            )
        if self.width**self.depth > MAX_CLAIMS:
            raise ValueError(
                f"expected width**depth of at most {MAX_CLAIMS} leaves per statement, got width {self.width} and depth "
                f"{self.depth}; set a depth of {int(log(MAX_CLAIMS, self.width))} or less."
            )
        # As floats in the order of OPERATORS: equal specifications generate equal puzzles.
        self._check_operators()
        weights = dict(self.operators)
        object.__setattr__(self, "operators", tuple((name, float(weights.get(name, 0))) for name in OPERATORS))
        if self.hardness is not None:
            object.__setattr__(self, "hardness", tuple(self.hardness))
            self._check_hardness(*self.hardness)
        if self.wording not in WORDINGS:
            raise ValueError(f"expected a wording out of {', '.join(WORDINGS)}, got {self.wording!r}.")
        if self.names not in NAME_SETS:
            raise ValueError(f"expected names out of {', '.join(NAME_SETS)}, got {self.names!r}.")
        if self.wording == "plain" and self.names != "english":
            raise ValueError(
                f'expected names "english" for the wording "plain", which has its own 12 names, got {self.names!r}; '
                'set the wording "classic" or "varied".'
            )
        if self.unique not in ("canonical", "text"):
            raise ValueError(f'expected unique "canonical" or "text", got {self.unique!r}.')

    def _check_operators(self) -> None:
        names = [name for name, _ in self.operators]
        unknown = [name for name in names if name not in OPERATORS]
        if unknown or len(set(names)) != len(names):
            raise ValueError(f"expected each operator once, out of {', '.join(OPERATORS)}, got {', '.join(names)}.")
        if not all(0 <= weight < float("inf") for _, weight in self.operators):
            raise ValueError(f"expected operator weights of 0 or more, got {self.operators!r}.")
        used = {name for name, weight in self.operators if weight > 0}
        if used <= {*LEAVES, "not"}:
            raise ValueError(
                "expected a weight above 0 for at least one of and, or, implies, iff: without them the opposite of a "
                "solution is a solution too, so no puzzle has exactly one."
            )
        if "tells-truth" in used and used <= {"tells-truth", "and", "or"}:
            raise ValueError(
                "expected a weight above 0 for at least one of lies, not, implies, iff: without them both everybody "
                "honest and everybody lying are solutions, so no puzzle has exactly one."
            )

    def _check_hardness(self, *hardness: int) -> None:
        if len(hardness) != 2 or any(type(value) is not int for value in hardness):
            raise ValueError(f"expected hardness as two integers such as (4, 8), got {hardness}.")
        low, high = hardness
        most = 2 ** (self.people + 1) - 2
        if not 0 <= low <= high:
            raise ValueError(f"expected a hardness range (LOW, HIGH) with 0 <= LOW <= HIGH, got ({low}, {high}).")
        if max(low, 2) > min(high, most) or (low == high and low % 2):
            raise ValueError(
                f"expected a hardness range with an even number from 2 to {most}, the values possible with "
                f"{self.people} people, got {low}:{high}."
            )


def max_puzzles(spec: PuzzleSpec) -> int:
    """An upper bound on the number of puzzles that differ in the sense of `spec.unique`.

    By Burnside's lemma there are at most as many canonical forms as multisets of statements: a renaming that preserves
    a puzzle determines all statements of a cycle by one of them.
    """
    statements = _max_statements(spec)
    if spec.unique == "canonical":
        return comb(statements + spec.people - 1, spec.people)
    names = perm(len(names_of(spec.wording, spec.names)), spec.people)
    return statements**spec.people * names * (len(ROLES) if spec.wording == "varied" else 1)


def _max_statements(spec: PuzzleSpec) -> int:
    """An upper bound on the number of statements, up to the order of operands."""
    used = {name for name, weight in spec.operators if weight > 0}
    leaves = spec.people * (len(used & set(LEAVES)) or 2)
    bare = spec.people * len(used & set(LEAVES))
    inside = leaves
    for _ in range(spec.depth):
        count = bare
        count += inside if "not" in used else 0
        groups = sum(comb(inside, size) for size in range(2, spec.width + 1))
        count += groups * len(used & {"and", "or"})
        count += inside * (inside - 1) if "implies" in used else 0
        count += inside * (inside - 1) // 2 if "iff" in used else 0
        inside = max(count, leaves) if bare == leaves else count + leaves
    return count

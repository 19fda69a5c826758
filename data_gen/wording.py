"""The English of puzzles: how people are introduced, quoted, and what their statements sound like.

Each phrasing has one meaning, whether "or" is read as inclusive or as exclusive and however the sentence is parsed;
tests/data_gen/test_wording.py reads them. "If A, then B" is the conditional of logic: false only if A is true and B is
false.
"""

from typing import NamedTuple


class Claim(NamedTuple):
    """A claim that a person tells the truth or lies, and its denial; a pair has the texts for (truth, lie).

    others, others_denied: about another person, {name}. own, own_denied: in the first person. {role} is a role word
    with its article, {roles} its plural.
    """

    others: tuple[str, str]
    own: tuple[str, str]
    others_denied: tuple[str, str]
    own_denied: tuple[str, str]


class Wording(NamedTuple):
    """The phrasings of a wording. {a} and {b} are the operands of an operator.

    scenes: before the statements; {people} is the list of names.
    quotations, reports: a statement {said} and its speaker {name}; "I" can be the speaker only in a quotation.
    claims: about one person.
    inline: operators as clauses that may be part of another sentence.
    many: and, or of three or more operands {items}, what separates them, and what separates the last two; only the
      first phrasing may be part of another sentence.
    spelled: operators in sentences that stand alone.
    shared: operators over two claims, by (operator, whether both claim the same role). {pair} is "Bob and Cal" or
      "Bob and I", {pair_object} "Bob and Cal" or "Bob and me", {role} and {roles} the claimed role, {truth}, {truths},
      {lie} and {lies} the two roles.
    denials: the negation of a claim, as a sentence that stands alone.
    """

    scenes: tuple[str, ...]
    quotations: tuple[str, ...]
    reports: tuple[str, ...]
    claims: tuple[Claim, ...]
    inline: dict[str, tuple[str, ...]]
    many: dict[str, tuple[tuple[str, str, str], ...]]
    spelled: dict[str, tuple[str, ...]]
    shared: dict[tuple[str, bool], tuple[str, ...]]
    denials: tuple[str, ...]


# For operands that contain operators themselves: a heading, then "first, ...; second, ...".
LISTED = {
    "and": {2: "both of these are true", 3: "all of these are true"},
    "or": {2: "at least one of these is true", 3: "at least one of these is true"},
    "implies": {2: "if the first of these is true, then so is the second"},
    "iff": {2: "these are both true or both false"},
}
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
            "twelfth")  # fmt: skip
OPPOSITE = "the following is false: {a}"

_IS_ROLE = Claim(
    ("{name} is {role}",) * 2,
    ("I am {role}",) * 2,
    ("{name} is not {role}",) * 2,
    ("I am not {role}",) * 2,
)
_IS_ONE_OF = Claim(
    ("{name} is one of the {roles}",) * 2,
    ("I am one of the {roles}",) * 2,
    ("{name} is not one of the {roles}",) * 2,
    ("I am not one of the {roles}",) * 2,
)
_ALWAYS = Claim(
    ("{name} always tells the truth", "{name} always lies"),
    ("I always tell the truth", "I always lie"),
    ("{name} does not always tell the truth", "{name} does not always lie"),
    ("I do not always tell the truth", "I do not always lie"),
)
_EVERYTHING = Claim(
    ("everything {name} says is true", "everything {name} says is false"),
    ("everything I say is true", "everything I say is false"),
    ("not everything {name} says is true", "not everything {name} says is false"),
    ("not everything I say is true", "not everything I say is false"),
)

_QUOTATIONS = (
    '{name} says, "{said}."',
    '"{said}," says {name}.',
    '{name} tells you, "{said}."',
    '"{said}," {name} tells you.',
    '{name} remarks, "{said}."',
    '"{said}," {name} remarks.',
    '{name} claims, "{said}."',
    '"{said}," claims {name}.',
    '{name} states, "{said}."',
    '"{said}," {name} insists.',
    '{name} maintains, "{said}."',
    '{name} announces, "{said}."',
    '"{said}," {name} announces.',
    '{name} declares, "{said}."',
    '"{said}," {name} declares.',
    '{name} assures you, "{said}."',
    '"{said}," {name} assures you.',
    'You hear {name} say, "{said}."',
    '{name} has this to say: "{said}."',
    '{name} puts it this way: "{said}."',
)
_REPORTS = ("According to {name}, {said}.", "As {name} sees it, {said}.")

CLASSIC = Wording(
    scenes=("You meet {people}.",),
    quotations=_QUOTATIONS,
    reports=_REPORTS[:1],
    claims=(_IS_ROLE,),
    inline={
        "and": ("{a} and {b}",),
        "or": ("{a} or {b}, or both",),
        "implies": ("if {a}, then {b}",),
        "iff": ("{a} if and only if {b}",),
    },
    many={
        "and": (("{items}", ", ", " and "),),
        "or": (("{items}, perhaps more than one of these", ", ", " or "),),
    },
    spelled={},
    shared={},
    denials=(),
)

VARIED = Wording(
    scenes=(
        "You meet {people}.",
        "Today you meet {people}.",
        "You come across {people}.",
        "On the beach you find {people}.",
        "At the harbour you meet {people}.",
        "{people} are sitting under a tree.",
        "{people} share a table with you.",
        "{people} greet you at the gate.",
        "Walking through the village, you meet {people}.",
    ),
    quotations=(
        *_QUOTATIONS,
        '{name} whispers, "{said}."',
        '"{said}," whispers {name}.',
        '{name} nods and says, "{said}."',
        '{name} shrugs and says, "{said}."',
        '{name} speaks up: "{said}."',
        'After a moment {name} says, "{said}."',
        'From {name} you hear, "{said}."',
    ),
    reports=_REPORTS,
    claims=(_IS_ROLE, _IS_ONE_OF, _ALWAYS, _EVERYTHING),
    inline={
        "and": ("{a} and {b}", "{a}, and what is more, {b}"),
        "or": ("{a} or {b}, or both", "{a}, or {b}, or perhaps both"),
        "implies": ("if {a}, then {b}", "if {a}, {b}", "{b} if {a}"),
        "iff": ("{a} if and only if {b}",),
    },
    many={
        "and": (("{items}", ", ", " and "), ("all of these are true: {items}", "; ", "; ")),
        "or": (
            ("{items}, perhaps more than one of these", ", ", " or "),
            ("at least one of these is true: {items}", "; ", "; "),
        ),
    },
    spelled={
        "and": ("both of these are true: {a}; {b}",),
        "or": ("at least one of these is true: {a}; {b}", "these are not both false: {a}; {b}"),
        "implies": ("assuming that {a}, {b}",),
        "iff": ("these are both true or both false: {a}; {b}", "these are both true, or neither is: {a}; {b}"),
    },
    shared={
        ("and", True): ("{pair} are both {roles}", "both {pair} are {roles}"),
        ("and", False): ("{a}, but {b}",),
        ("or", True): ("at least one of {pair_object} is {role}",),
        ("iff", True): ("{pair} are both {truths} or both {lies}",),
        ("iff", False): (
            "exactly one of {pair_object} is {truth}",
            "one of {pair_object} is {truth} and the other is {lie}",
        ),
    },
    denials=(
        "it is not true that {a}",
        "it is false that {a}",
        "it is not the case that {a}",
        "it would be wrong to say that {a}",
    ),
)

WORDINGS = {"classic": CLASSIC, "varied": VARIED}

"""Ways of saying things. Every way can be read in one sense only, given that operators inside operators are
bracketed.

Operands are bare claims about one person ("Bob is a knave") or bracketed, so no way needs a rule of
precedence. Each "or" says that it is inclusive.
"""

# A claim about one person, as (said of one who tells the truth, said of one who lies).
CLAIMS = (
    ("{name} is {role}", "{name} is {role}"),
    ("{name} is one of the {roles}", "{name} is one of the {roles}"),
    ("{name} always tells the truth", "{name} always lies"),
    ("every word of {name} is true", "every word of {name} is false"),
    ("{name} belongs to the {roles}", "{name} belongs to the {roles}"),
)

# (before, between, after) the operands.
WAYS = {
    "not": (
        ("it is not true that ", "", ""),
        ("it is false that ", "", ""),
        ("it is not the case that ", "", ""),
        ("it would be wrong to say that ", "", ""),
    ),
    "and": (
        ("", " and ", ""),
        ("", ", and also ", ""),
        ("each of these is true: ", "; ", ""),
        ("none of these is false: ", "; ", ""),
        ("", ", and what is more, ", ""),
    ),
    "or": (
        ("at least one of these is true: ", "; ", ""),
        ("", " or ", ", perhaps more than one of these"),
        ("not all of these are false: ", "; ", ""),
        ("one or more of these hold: ", "; ", ""),
    ),
    "implies": (
        ("if ", ", then ", ""),
        ("", " only if ", ""),
        ("supposing that ", ", it follows that ", ""),
        ("in case ", ", it is certain that ", ""),
        ("either the first of these is false or the second is true: ", "; ", ""),
    ),
    "iff": (
        ("", " if and only if ", ""),
        ("", " exactly when ", ""),
        ("these are both true or both false: ", "; ", ""),
        ("either all of these are true or none is: ", "; ", ""),
    ),
}
PAIR_WAYS = {"and": (("both are true: ", "; ", ""),), "or": (("", " or ", ", or both"),)}

# How a person is quoted. `said` has no full stop of its own.
QUOTES = (
    '{name} says: "{said}."',
    '{name} claims: "{said}."',
    '"{said}," says {name}.',
    '"{said}," {name} tells you.',
    'From {name} you hear: "{said}."',
    '{name} nods and says: "{said}."',
    'Then {name} speaks up: "{said}."',
    'When asked, {name} answers: "{said}."',
    '{name} has this to say: "{said}."',
    '{name} whispers: "{said}."',
)

# Before the statements; the rules of the island and the closing question belong to the prompt.
SCENES = (
    "You meet {people}.",
    "{people} are sitting under a tree.",
    "Today you run into {people}.",
    "At the harbour stand {people}.",
    "Around one table sit {people}.",
    "Of the islanders, {people} stop to talk.",
    "{people} share a boat with you.",
    "Behind the counter you find {people}.",
)

"""Phrasings of claims and operators. Each is unambiguous, given that nested operators are in parentheses.

Operands are claims about one person ("Bob is a knave") or parenthesized, so no rules of precedence are needed. Every
"or" is explicitly inclusive.
"""

# Claims about one person: (that the person tells the truth, that the person lies).
CLAIMS = (
    ("{name} is {role}", "{name} is {role}"),
    ("{name} is one of the {roles}", "{name} is one of the {roles}"),
    ("{name} always tells the truth", "{name} always lies"),
    ("every word of {name} is true", "every word of {name} is false"),
    ("{name} belongs to the {roles}", "{name} belongs to the {roles}"),
)

# Operator -> (text before, between and after the operands).
PHRASINGS = {
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
PAIR_PHRASINGS = {"and": (("both are true: ", "; ", ""),), "or": (("", " or ", ", or both"),)}

# Quotations. `said` has no full stop.
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

# Before the statements. The rules and the final question are part of the prompt.
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

"""Laws of version 2 of the role parser: honest answers are read back, and whatever qualifies them is refused."""

import json
import re
import unicodedata

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from jaxrl.answers.grammar import RoleGrammar
from jaxrl.answers.lexer import PHRASES, lexicon_of, tokenize
from jaxrl.rewards.role_parser import read_roles

pytestmark = pytest.mark.check

LAWS = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
EACH = settings(LAWS, max_examples=25)

PLAIN = ["Zoey", "Oliver", "Aria", "Ann", "Bob", "Mary", "Mary Ann", "Anne-Marie", "O'Brien", "Dr. Who", "Agent 7"]
LETTERS = ["A", "B", "C", "D", "I", "V", "X"]
WORDS = ["An", "The", "So", "Will", "May", "And", "All", "Both", "None", "Only", "Not", "Is", "Are", "Role", "Name"]
WORDS += ["Answer", "Rest", "Person", "Honest", "Knight", "One", "While", "Must"]
WORLD = ["José", "Łukasz", "Ελένη", "Анна", "小龙", "明月", "さくら", "민준", "प्रिया", "ליאור", "ليلى", "Tuğba"]
ROLES = [
    ("knight", "knave"),
    ("monk", "thief"),
    ("truth-teller", "liar"),
    ("owl", "impostor"),
    ("saint", "sinner"),
    ("骑士", "无赖"),
]


@st.composite
def puzzles(draw, names=(*PLAIN, *LETTERS, *WORDS, *WORLD), people=(2, 6)):
    """(names, role words, role of each person)."""
    chosen = draw(st.lists(st.sampled_from(names), min_size=people[0], max_size=people[1], unique=True))
    truth = draw(st.lists(st.integers(0, 1), min_size=len(chosen), max_size=len(chosen)))
    return tuple(chosen), draw(st.sampled_from(ROLES)), tuple(truth)


def read(answer, puzzle):
    return read_roles(unicodedata.normalize("NFC", answer), puzzle[0], puzzle[1]).roles


def plural(role):
    return {"thief": "thieves", "骑士": "骑士", "无赖": "无赖"}.get(role, role + "s")


def a(role):
    return role if role[0] > "z" else f"an {role}" if role[0] in "aeiou" else f"a {role}"


def sides(puzzle, order):
    """The names of those who tell the truth and of those who lie."""
    return [[puzzle[0][i] for i in order if puzzle[2][i] == side] for side in (0, 1)]


def listed(names):
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# One clause for each person: name, role, and the other role.
PAIRS = {
    "is": lambda n, r, o: f"{n} is {a(r)}",
    "must be": lambda n, r, o: f"{n} must be {a(r)}",
    "has to be": lambda n, r, o: f"{n} has to be {a(r)}",
    "is definitely": lambda n, r, o: f"{n} is definitely {a(r)}",
    "must therefore be": lambda n, r, o: f"{n} must therefore be {a(r)}",
    "colon": lambda n, r, o: f"{n}: {r}",
    "capital": lambda n, r, o: f"{n}: {r.capitalize()}",
    "bold": lambda n, r, o: f"**{n}** is {a('X')[:-1]}**{r}**",
    "bold colon": lambda n, r, o: f"**{n}:** {r}",
    "equals": lambda n, r, o: f"{n} = {r}",
    "arrow": lambda n, r, o: f"{n} -> {r}",
    "dash": lambda n, r, o: f"{n} – {r}",
    "parentheses": lambda n, r, o: f"{n} ({r})",
    "brackets": lambda n, r, o: f"[{n}] is a [{r}]",
    "quotes": lambda n, r, o: f'"{n}": "{r}"',
    "role of": lambda n, r, o: f"{n}'s role is {r}",
    "not the other": lambda n, r, o: f"{n} is {a(r)}, not {a(o)}",
    "not the other in parentheses": lambda n, r, o: f"{n} is {a(r)} (not {a(o)})",
    "text": lambda n, r, o: rf"\text{{{n}}} = \textbf{{{r}}}",
    "boxed": lambda n, r, o: rf"{n} is a \boxed{{{r}}}",
    "inner object": lambda n, r, o: f'"{n}": {{"role": "{r}"}}',
    "record": lambda n, r, o: f"name: {n}, role: {r}",
    "record, role first": lambda n, r, o: f"role: {r}, name: {n}",
}
JOINS = {
    "comma": lambda clauses: ", ".join(clauses),
    "semicolon": lambda clauses: "; ".join(clauses),
    "sentences": lambda clauses: ". ".join(clauses) + ".",
    "and": lambda clauses: " and ".join(clauses),
    "last and": lambda clauses: ", ".join(clauses[:-1]) + f", and {clauses[-1]}.",
    "lines": lambda clauses: "\n".join(clauses),
    "bullets": lambda clauses: "\n".join(f"- {clause}" for clause in clauses),
    "stars": lambda clauses: "\n".join(f"* {clause}" for clause in clauses),
    "numbers": lambda clauses: "\n".join(f"{number}. {clause}" for number, clause in enumerate(clauses, 1)),
    "numbers in parentheses": lambda clauses: "\n".join(
        f"({number}) {clause}" for number, clause in enumerate(clauses, 1)
    ),
    "letters": lambda clauses: "\n".join(
        f"{letter}) {clause}" for letter, clause in zip("abcdefg", clauses, strict=False)
    ),
    "checks": lambda clauses: "\n".join(f"✅ {clause}" for clause in clauses),
}


def table(puzzle, order, header=("Name", "Role"), flipped=False):
    rows = [header, *((puzzle[0][i], puzzle[1][puzzle[2][i]]) for i in order)]
    rows = [row[::-1] if flipped else row for row in rows]
    rows.insert(1, ("---", ":--"))
    return "\n".join(f"| {left} | {right} |" for left, right in rows)


def grouped(puzzle, order, form="{role}: {names}", join="\n", none="none"):
    groups = zip((plural(role) for role in puzzle[1]), sides(puzzle, order), strict=True)
    return join.join(form.format(role=role, names=listed(names) if names else none) for role, names in groups)


def others(puzzle, order):
    """The first side by name, the other side as "the others"."""
    side = puzzle[2][order[0]]
    first, rest = sides(puzzle, order)[side], sides(puzzle, order)[1 - side]
    assume(rest)
    named = (
        f"{first[0]} is {a(puzzle[1][side])}" if len(first) == 1 else f"{listed(first)} are {plural(puzzle[1][side])}"
    )
    return f"{named}; the others are {plural(puzzle[1][1 - side])}."


def both(puzzle, order):
    clauses = []
    for side, names in enumerate(sides(puzzle, order)):
        if len(names) == 1:
            clauses.append(f"{names[0]} is {a(puzzle[1][side])}")
        elif names:
            clauses.append(f"{'Both ' if len(names) == 2 else ''}{listed(names)} are {plural(puzzle[1][side])}")
    return ". ".join(clauses)


def as_object(puzzle, order):
    return json.dumps({puzzle[0][i]: puzzle[1][puzzle[2][i]] for i in order})


def as_objects(puzzle, order):
    return json.dumps([{"name": puzzle[0][i], "role": puzzle[1][puzzle[2][i]]} for i in order], ensure_ascii=False)


def as_groups(puzzle, order):
    return json.dumps(dict(zip(map(plural, puzzle[1]), sides(puzzle, order), strict=True)), ensure_ascii=False)


def as_yaml(puzzle, order):
    return "```yaml\n" + "\n".join(f"{puzzle[0][i]}: {puzzle[1][puzzle[2][i]]}" for i in order) + "\n```"


def cases(puzzle, order):
    rows = r" \\ ".join(rf"\text{{{puzzle[0][i]}}} = \text{{{puzzle[1][puzzle[2][i]]}}}" for i in order)
    return rf"\begin{{cases}} {rows} \end{{cases}}"


# Forms of a whole answer.
WHOLE = {
    "table": table,
    "table, role first": lambda puzzle, order: table(puzzle, order, ("Person", "Identity"), flipped=True),
    "groups": grouped,
    "groups in a line": lambda puzzle, order: grouped(puzzle, order, join=" / "),
    "groups as sentences": lambda puzzle, order: grouped(puzzle, order, "The {role} are {names}.", " ", "no one"),
    "others": others,
    "both": both,
    "object": as_object,
    "objects": as_objects,
    "object of groups": as_groups,
    "yaml": as_yaml,
    "cases": cases,
}
FRAMES = {
    "none": "{0}",
    "answer": "The final answer is:\n{0}",
    "heading": "### Final Answer\n\n{0}\n",
    "bold heading": "**Roles**\n\n{0}",
    "both roles": "{R} and {S}:\n{0}",
    "either role": "Solution ({r}/{s}):\n{0}",
    "here": "Here are the roles of each person:\n\n{0}",
    "fence": "```\n{0}\n```",
}


@st.composite
def honest(draw, puzzle):
    """An answer that says each person's role plainly."""
    order = draw(st.permutations(range(len(puzzle[0]))))
    if draw(st.booleans()):
        text = WHOLE[draw(st.sampled_from(sorted(WHOLE)))](puzzle, order)
    else:
        pair = PAIRS[draw(st.sampled_from(sorted(PAIRS)))]
        clauses = [pair(puzzle[0][i], puzzle[1][puzzle[2][i]], puzzle[1][1 - puzzle[2][i]]) for i in order]
        text = JOINS[draw(st.sampled_from(sorted(JOINS)))](clauses)
    frame = FRAMES[draw(st.sampled_from(sorted(FRAMES)))] if "```" not in text else "{0}"
    words = {"r": puzzle[1][0], "s": puzzle[1][1], "R": plural(puzzle[1][0]), "S": plural(puzzle[1][1])}
    return frame.format(text, **words)


@pytest.mark.parametrize("form", PAIRS)
@EACH
@given(puzzle=puzzles(), join=st.sampled_from(sorted(JOINS)), data=st.data())
def test_every_clause_in_every_list_is_read_back(form, puzzle, join, data):
    order = data.draw(st.permutations(range(len(puzzle[0]))))
    clauses = [PAIRS[form](puzzle[0][i], puzzle[1][puzzle[2][i]], puzzle[1][1 - puzzle[2][i]]) for i in order]
    assert read(JOINS[join](clauses), puzzle) == puzzle[2]


@pytest.mark.parametrize("form", WHOLE)
@EACH
@given(puzzle=puzzles(), data=st.data())
def test_every_form_of_a_whole_answer_is_read_back(form, puzzle, data):
    order = data.draw(st.permutations(range(len(puzzle[0]))))
    assert read(WHOLE[form](puzzle, order), puzzle) == puzzle[2]


@LAWS
@given(puzzle=puzzles(), data=st.data())
def test_an_honest_answer_in_any_frame_is_read_back(puzzle, data):
    assert read(data.draw(honest(puzzle)), puzzle) == puzzle[2]


TRICKS = (
    "Maybe {0}",
    "{0} Maybe.",
    "Probably: {0}",
    "I think {0}",
    "If {0}",
    "{0} if {n} lies",
    "{0}?",
    "Either {0}",
    "{0} Or not.",
    "{0} or the opposite",
    "It is false that {0}",
    "Not {0}",
    "!{0}",
    "¬({0})",
    "~~{0}~~",
    "<del>{0}</del>",
    "<!-- {0} -->",
    "{0} <!-- no -->",
    "[not] {0}",
    "{0} Wait, no.",
    "{0}, but",
    "No. {0}",
    "{0} {0}",
    "{0}\n\n{0}",
    "{0}\n{n} is {o}",
    "{n} is {o}.\n{0}",
    "{0}\n{n}: {r}",
    "{0}\nStranger is {r}",
    "{n} says {0}",
    "{n} says: {0}",
    "False answer: {0}",
    "One answer:\n{0}",
    "The opposite:\n{0}",
    "```false\n{0}\n```",
    "```diff\n- {0}\n```",
    "{0}...",
    "{0} 🤔",
    "{0} ❌",
    "{0} \u200b",
    "\u202e{0}",
    "\\cancel{{{0}}}",
    "\\sout{{{0}}}",
    "{0} % wrong",
    "0% {0}",
    "{0} because {n} said so",
    "{0} Everyone else is {o}.",
    "Nobody is {r}. {0} Nobody is {o}.",
    "{0}\n| {n} | {o} |",
    '{0}\n{{"{n}": "{o}"}}',
)
ORDINARY = (*PLAIN, *WORLD)  # names that are no word of the grammar


@pytest.mark.parametrize("trick", TRICKS)
@EACH
@given(puzzle=puzzles(), data=st.data())
def test_a_trick_around_an_honest_answer_is_refused(trick, puzzle, data):
    role = puzzle[1][puzzle[2][0]]
    text = trick.format(data.draw(honest(puzzle)), n=puzzle[0][0], r=a(role), o=a(puzzle[1][1 - puzzle[2][0]]))
    assert read(text, puzzle) is None


def insert(data, text, word):
    """`text` with a word at one of its spaces or line breaks, or at an end."""
    gaps = [0, *(index for index, char in enumerate(text) if char.isspace()), len(text)]
    at = data.draw(st.sampled_from(gaps))
    return f"{text[:at]} {word} {text[at:]}"


QUALIFIERS = "maybe perhaps possibly likely apparently allegedly supposedly seemingly not-quite never hardly barely if "
QUALIFIERS += "unless when whether could might would should seems was were wasn't isn't ain't nor neither without "
QUALIFIERS += (
    "false wrong untrue incorrect actually wait sorry former fake so-called claims says thinks believes 也许 并非"
)


@LAWS
@given(
    puzzle=puzzles(),
    word=st.one_of(st.sampled_from(QUALIFIERS.split()), st.text("bcdfghjkmpqrtwz", min_size=4, max_size=9)),
    data=st.data(),
)
def test_a_word_outside_the_grammar_makes_an_answer_unparseable(puzzle, word, data):
    assert read(insert(data, data.draw(honest(puzzle)), word), puzzle) is None


KNOWN = sorted({phrase for listed in PHRASES.values() for phrase in listed.split("; ")})


@settings(LAWS, max_examples=600)
@given(puzzle=puzzles(ORDINARY), word=st.sampled_from(KNOWN), data=st.data())
def test_a_word_of_the_grammar_never_changes_the_reading(puzzle, word, data):
    if data.draw(st.booleans()):
        word = data.draw(st.sampled_from([*puzzle[0], *puzzle[1], *map(plural, puzzle[1])]))
    assert read(insert(data, data.draw(honest(puzzle)), word), puzzle) in (None, puzzle[2])


@settings(LAWS, max_examples=300)
@given(puzzle=puzzles(ORDINARY), data=st.data())
def test_an_answer_with_a_missing_word_is_never_read_as_another(puzzle, data):
    words = re.split(r"(\s+)", data.draw(honest(puzzle)))
    del words[data.draw(st.integers(0, len(words) - 1))]
    assert read("".join(words), puzzle) in (None, puzzle[2])


LOOK_ALIKES = {"a": "а", "e": "е", "o": "о", "i": "і", "n": "ո", "t": "т", "k": "κ", "r": "г", "v": "ν", "s": "ѕ"}
LOOK_ALIKES |= {"A": "Α", "B": "В", "M": "М", "Z": "Ζ", "O": "О"}


@LAWS
@given(puzzle=puzzles([*PLAIN, *LETTERS]), data=st.data())
def test_a_letter_of_another_script_is_refused(puzzle, data):
    text = data.draw(honest(puzzle))
    words = [word for word in (*puzzle[0], *puzzle[1][:2]) if set(word) & set(LOOK_ALIKES)]
    places = [
        m.start() + i
        for w in words
        for m in re.finditer(re.escape(w), text)
        for i, c in enumerate(w)
        if c in LOOK_ALIKES
    ]
    assume(places)
    at = data.draw(st.sampled_from(places))
    assert read(text[:at] + LOOK_ALIKES[text[at]] + text[at + 1 :], puzzle) is None


@LAWS
@given(puzzle=puzzles(ORDINARY), recase=st.sampled_from([str.upper, str.lower]), data=st.data())
def test_letter_case_makes_no_difference_to_sentences(puzzle, recase, data):
    form, join = (
        data.draw(st.sampled_from(["is", "must be", "colon", "not the other"])),
        data.draw(st.sampled_from(list(JOINS))),
    )
    clauses = [
        PAIRS[form](n, puzzle[1][side], puzzle[1][1 - side]) for n, side in zip(puzzle[0], puzzle[2], strict=True)
    ]
    assert read(recase(JOINS[join](clauses)), puzzle) == puzzle[2]


def test_an_article_is_not_a_person():
    names, roles = ("A", "B"), ("knight", "knave")
    for answer in (
        "B is a knight and a knave.",
        "B is a knight. a knave.",
        "B: knight, a knave",
        "B is a knight, so a knave",
    ):
        assert read(answer, (names, roles)) is None
        assert read(answer.lower(), (names, roles)) is None
        assert read(answer.upper(), (names, roles)) is None
    for answer in ("The knight is B. A is a knave.", "Knave: A. B is a knight.", "A knave is A and a knight is B."):
        assert read(answer, (names, roles)) == (1, 0)


class Counted(list):
    """A list that counts how often an item is read."""

    reads = 0

    def __getitem__(self, at):
        self.reads += 1
        return super().__getitem__(at)


PIECES = (
    "Ann, ",
    "Ann and ",
    "Ann: ",
    "knights: ",
    "knights\n",
    "- ",
    "(",
    "1. ",
    "a) ",
    "| ",
    "|\n",
    "| Ann |\n",
    "the ",
)
PIECES += (
    ".\n",
    "{",
    "so ",
    "both ",
    "name: Ann, ",
    "role: ",
    "the answer ",
    "Ann is a knight, ",
    "not ",
    "the others ",
)


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("names", [("Ann", "Bob"), (*(f"N{index}" for index in range(38)), "Ann", "Bob")])
def test_every_token_is_read_a_bounded_number_of_times(piece, names):
    text = piece * ((1000 + 250 * len(names)) // len(piece))
    tokens = tokenize(text, lexicon_of(names, ("knight", "knave")), names)
    grammar = RoleGrammar(tokens)
    grammar.tokens, grammar.kinds = Counted(grammar.tokens), Counted(grammar.kinds)
    grammar.parse()
    assert grammar.tokens.reads + grammar.kinds.reads <= 200 * (len(tokens) + 1)

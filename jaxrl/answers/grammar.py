"""The grammar of plain statements of roles.

In these rules a lower-case word is a kind of token (`lexer.PHRASES`), `[x]` is optional and `x*` is repeated:

    answer    = (clause | heading | punctuation | joining word)*    a clause follows every heading and joining word
    clause    = [marker] (named | group | rest | everyone | nobody | record | explained | members) | table | same
    named     = [only] NAMES link ROLE tail*              "Ann is a knight", "both Ann and Bob are knaves"
    group     = [article] [only] [count] ROLE link NAMES  "Knights: Ann, Cal", "the knave is Bob", "knaves: none"
    rest      = the others link ROLE tail*                "everyone else is a knave", "the other two are knights"
    everyone  = everyone [except NAMES] link ROLE tail*   "all three are knights", "all but Ann are knaves"
    nobody    = none are ROLE | no ROLE                   "there are no knaves"
    record    = name-label: NAME, role-label: ROLE        in both orders, as in JSON and YAML
    explained = ROLE are (truth | lie)                    "knights tell the truth"; no person
    members   = among (them | count | people) comma       "Among them, ...", "Of the three, ..."; no person
    same      = so is NAMES | as is NAMES | NAMES is too  "so is Bob", "as are Bob and Cal"; behind another clause
    tail      = not ROLE | who (truth | lie)              "not a knave", "(who always lies)"; has to agree with ROLE
    heading   = words about the answer                    "Here are the roles:", "Knights and knaves:"

Methods take the position of their first token and return what they read and the position behind it, or None. The forms
are tried in order, and a list of names ends at the first repeated name, so the time is linear in the answer's length.
"""

from collections.abc import Iterator
from typing import NamedTuple

from jaxrl.answers.lexer import RoleToken
from jaxrl.answers.phrases import RolePhrases
from jaxrl.answers.tables import read_table

REST, EVERYONE, NOBODY_NAMED = "rest", "everyone", "explanation"
_MEMBER_SEPARATORS = ("comma", "and", "stop", "newline", "bullet", "check")
# The kinds of tokens that a clause can start with.
_START_KINDS = """
name role roles article only count number letter open each people rest of among them everyone none no there here
name-label role-label
"""
_STARTS = frozenset(_START_KINDS.split())
_SINGULAR = ("other", "person", "character", "inhabitant", "islander", "resident", "individual", "one")


class RoleClaim(NamedTuple):
    """One statement of an answer: these persons have this role."""

    who: tuple[int, ...] | str  # persons (none: nobody has the role), REST, EVERYONE or NOBODY_NAMED
    role: int
    implied: tuple[int, ...] = ()  # the role as restated in the clause: "not a knave", "who always lies"
    count: int | None = None  # the number of persons as stated; of all persons if nobody is named
    only: bool = False  # whether nobody else has the role
    but: tuple[int, ...] = ()  # EVERYONE but these, who have the other role


Clause = tuple[list[RoleClaim], int] | None
Members = tuple[tuple[int, ...] | str, int | None, int]  # who, their number if it is stated, position


class RoleGrammar(RolePhrases):
    """A parser of one answer; `position` is the first token that is not read yet."""

    def __init__(self, tokens: list[RoleToken]):
        super().__init__(tokens)
        self.has_cells = any("cell" in token.kinds for token in tokens)
        self.no_table_before = 0  # the end of the last lines with "|" that were read as a table or are none
        self.position = 0

    def parse(self) -> list[RoleClaim] | None:
        """The statements of the whole answer; None if `position` is not the start of a statement or a heading."""
        claims, depth, needs_clause = [], 0, True
        behind_clause = 0
        while not self.has(self.position, "end"):
            at = self.position
            clause = self._clause(at) or self._same(at, behind_clause, claims)
            if clause:
                claims += clause[0]
                self.position = behind_clause = clause[1]
                needs_clause = clause[0][0].count is not None and clause[0][0].who == NOBODY_NAMED
            elif self.has(at, "comma", "stop", "newline", "cell", "slash", "check"):
                self.position += 1
            elif self.has(at, "open", "close"):
                depth += 1 if self.has(at, "open") else -1
                if depth < 0:
                    return None
                self.position += 1
            else:
                behind = self.heading(at) or self.lead(at)
                if behind is None and self.has(at, "and", "join", "adverb", "bullet", "dash"):
                    behind = self.past(at + 1, "that", "pair") if self.has(at, "adverb") else self.past(at + 1, "that")
                if behind is None:
                    return None
                self.position, needs_clause = behind, True
        return None if needs_clause or depth else claims

    def _finish(self, who: tuple[int, ...] | str, at: int, count: int | None = None, close: bool = False) -> Clause:
        """ROLE tail* and the end of a clause."""
        number = self.past(at, "article")
        if number > at and self.has(number, "count") and self.has(number + 1, "roles"):  # "are the two knaves"
            at, count = number + 1, self.stated(number, count)
        role = self.role(at)
        if role is None:
            return None
        value, only, behind = role
        behind = self.past(behind, "too")
        implied = []
        while len(implied) < 2 and (tail := self.tail(behind)):
            implied.append(tail[0])
            behind = tail[1]
        if close:
            if not self.has(behind, "close"):
                return None
            behind += 1
        if not self.ends(behind):
            return None
        return [RoleClaim(who, value, tuple(implied), count, only)], behind

    # Clauses

    def _clause(self, at: int) -> Clause:
        if self.kinds[at].isdisjoint(_STARTS) and not self.has_cells:
            return None
        if self.has_cells and self.tokens[at].first and at >= self.no_table_before:
            claims, self.no_table_before = read_table(self.tokens, at)
            if claims:
                return [RoleClaim(*claim) for claim in claims], self.no_table_before
        forms = (
            self._record,
            self._named,
            self._group,
            self._rest,
            self._everyone,
            self._nobody,
            self._explained,
            self._among,
        )
        for start in (at, self.marker(at)):
            if start is not None:
                for form in forms:
                    if clause := form(start):
                        return clause
        return None

    def _named(self, at: int) -> Clause:
        clause = self._named_from(at)
        if clause is None and self.has(at, "each"):
            clause = self._named_from(self.past(at + 1, "of"), several=True)
        if clause is None and self.has(at, "only") and (clause := self._named_from(at + 1)):
            clause = [claim._replace(only=True) for claim in clause[0]], clause[1]
        return clause

    def _named_from(self, at: int, several: bool = False) -> Clause:
        is_noun = self.has(at, "people") and "spelled" not in self.kinds[at]  # "person A"
        is_item = (
            self.has(at, "open") and len(self.tokens[at + 1].text) == 1 and self.has(at + 2, "close")
        )  # "(A) knight"
        at += (is_noun or is_item) and self.has(at + 1, "name")
        found = list(self.names(at, "comma", "and"))
        if not found:
            return None
        persons, behind = found[-1]
        if len(persons) > 1:
            link = self.are_verb(behind) or (self.is_verb(behind) if several else None)
            if link is None and self.has(behind, "pair"):
                link = behind + 1
            if link is not None and (clause := self._respectively(persons, link) or self._finish(persons, link)):
                return clause
        return None if several else self._one_person(at, found[0][0])

    def _one_person(self, at: int, person: tuple[int, ...]) -> Clause:
        behind = at + 1
        if self.has(behind, "open"):
            return self._finish(person, behind + 1, close=True)
        if len(self.tokens[at].text) == 1 and (self.has(behind, "close") or self.tokens[behind].text == "."):
            return self._finish(person, behind + 1)  # "A) knight"
        for link in self._links(behind):
            if clause := self._finish(person, link):
                return clause
        return None

    def _links(self, at: int) -> Iterator[int]:
        """The positions behind what can connect one person with a role."""
        if (link := self.is_verb(at)) is not None:
            yield self.past(link, "pair")
        label = self.past(at, "possessive")
        if self.has(label, "role-label"):  # "Ann's role is"
            yield self.past(self.is_verb(label + 1) or label + 1, "pair")
        if label > at:  # "Ann's a knight"
            yield label
        if self.has(at, "pair"):
            behind = self.skip(self.past(self.skip(at + 1, "newline"), "bullet"), "adverb")
            yield behind
            if self.has(behind, "role-label") and self.has(behind + 1, "pair"):  # {"Ann": {"role": "knight"}}
                yield behind + 2
        if self.has(at, "dash", "cell", "comma", "as"):
            yield self.past(self.is_verb(at + 1) or at + 1, "pair")
        if "spelled" in self.kinds[at - 1]:  # "Ann knight"
            yield self.skip(at, "adverb")

    def _respectively(self, persons: tuple[int, ...], at: int) -> Clause:
        claims = []
        for person in persons:
            role = self.role(at)
            if role is None:
                return None
            claims.append(RoleClaim((person,), role[0], only=role[1]))
            at = self.skip(role[2], "comma", "and")
        return (claims, at + 1) if self.has(at, "respectively") and self.ends(at + 1) else None

    def _group(self, at: int) -> Clause:
        start, count, only = at, None, False
        at = self.past(at, "there", "here")
        while self.has(at, "article", "only", "count", "number", "adverb") and not self.has(at, "role", "roles"):
            count = self.stated(at, count)
            only |= "only" in self.kinds[at]
            at += 1
        role, single = self.tokens[at].role, not self.has(at, "roles")
        if role is None:
            return None
        at += 1
        if self.has(at, "open") and self.has(at + 2, "close"):
            if self.tokens[at + 1].text == "s":  # "Knight(s): Ann, Cal"
                at, single = at + 3, False
            elif self.has(at + 1, "count", "number"):  # "Knights (2): Ann, Cal"
                at, count = at + 3, self.stated(at + 1, count)
        at = self.past(at, "them")
        implied = []
        while len(implied) < 2 and (tail := self.tail(at)):
            implied.append(tail[0])
            at = tail[1]
        links = ("pair", "dash", "cell") if count is None else ("pair", "dash", "cell", "comma")
        for who, others, behind in self._group_members(start, at, single, links):
            return [RoleClaim(who, role, tuple(implied), count if others is None else others, only)], behind
        return None

    def _group_members(self, start: int, at: int, single: bool, links: tuple[str, ...]) -> Iterator[Members]:
        """The link of a group and its NAMES, the likeliest reading first."""
        many, close = True, False
        verb = self.skip(at, "adverb")
        if (link := self.is_verb(at)) is not None:
            many = not single or self.has(verb, "are")
        elif (link := self.are_verb(at)) is None:
            close = self.has(at, "open")
            if close or self.has(at, *links):
                link = at + 1
            elif self.tokens[start].first and self.has(at, "newline"):
                link = at
            elif self.has(at, "name") and single and not self.has(start - 1, "name", "role", "roles"):
                link, many = at, False  # "knight Ann"
            else:
                return
        listed = self.has(link - 1, "pair") or self.has(link, "pair")  # no comma before a name ends "Knaves: Ann, ..."
        link = self.skip(self.past(link, "pair"), "newline")
        for who, count, behind in self._members(self.skip(link, "bullet", "check"), many):
            if close and self.has(behind, "close"):
                yield who, count, behind + 1
            elif listed and self.has(behind, "comma") and self.has(self.past(behind + 1, "and"), "name"):
                continue
            elif not close and self._ends_members(behind):
                yield who, count, behind

    def _members(self, at: int, many: bool) -> Iterator[Members]:
        if self.has(at, "none") and "spelled" not in self.kinds[at]:
            yield (), None, at + 1
        if others := self._others(at):
            yield REST, *others
        lists = list(self.names(self.item(at), *_MEMBER_SEPARATORS))
        found = [(who, None, behind) for who, behind in lists]
        if not many:
            yield from found[:1]
            return
        yield from found[-1:]
        # "Knights: Ann. Bob and Cal are knaves": the list ends before a stop or a line break, else before a comma.
        for kinds in (("stop", "newline"), ("comma",)):
            yield from (cut for cut in reversed(found[:-1]) if self.has(cut[2], *kinds))

    def _ends_members(self, at: int) -> bool:
        """Whether a list of names may end here: no role of the last name follows."""
        if self.has(at, "role", "roles"):  # "Knights: Ann knaves: Bob", but not "Knights: Bob. A knave is Cal"
            return "spelled" in self.kinds[at - 1]
        return self.ends(at) and not (self.has(at, "dash", "cell", "open") and self.role(at + 1))

    def _others(self, at: int) -> tuple[int | None, int] | None:
        """ "the others", "the other two people": (number of persons if it is stated, position)."""
        count = None
        at = self.skip(at, "article", "each", "of")
        found = False
        while self.has(at, "rest", "count", "number", "people", "ones", "them") and "spelled" not in self.kinds[at]:
            count = count if self.has(at, "ones") and self.has(at - 1, "rest") else self.stated(at, count)
            found |= "rest" in self.kinds[at]
            at += 1
        if not found:
            return None
        return 1 if count is None and self.tokens[at - 1].text in _SINGULAR else count, at

    def _several(self, who: str, count: int | None, at: int) -> Clause:
        """link ROLE tail* for persons who are not named."""
        link = self.are_verb(at) or self.is_verb(at)
        if link is None and self.has(at, "pair", "dash"):
            link = at + 1
        if link is None:
            return None
        if any(self.tokens[word].text == "both" for word in range(at, link)):
            count = 2
        return self._finish(who, link, count)

    def _rest(self, at: int) -> Clause:
        others = self._others(at)
        return self._several(REST, *others) if others else None

    def _everyone(self, at: int) -> Clause:
        if not self.has(at, "everyone"):
            return None
        count = 2 if self.tokens[at].text == "both" else None
        at += 1
        while self.has(at, "article", "of", "people", "them", "count", "number"):
            count = self.stated(at, count)
            at += 1
        if not self.has(at, "except") or count is not None:
            return self._several(EVERYONE, count, at)
        for persons, behind in reversed(list(self.names(at + 1, "comma", "and"))):
            if clause := self._several(EVERYONE, None, self.past(behind, "comma")):
                return [clause[0][0]._replace(but=persons)], clause[1]
        return None

    def _nobody(self, at: int) -> Clause:
        if self.has(at, "none"):
            at = self.past(at + 1, "them")
            role = self.role(at + 1) if self.has(at, "is", "are") else None
        else:
            stated = self.has(at, "there")
            at += stated
            plural = stated or self.has(at + 1, "roles")
            role = self.role(at + 1) if self.has(at, "no") and plural else None
        return ([RoleClaim((), role[0])], role[2]) if role and self.ends(role[2]) else None

    def _record(self, at: int) -> Clause:
        labels = ("name-label", "role-label") if self.has(at, "name-label") else ("role-label", "name-label")
        if not self.has(at, labels[0]) or not self.has(at + 1, "pair"):
            return None
        role = self.role(at + 2) if labels[0] == "role-label" else None
        if role is None and not (labels[0] == "name-label" and self.has(at + 2, "name")):
            return None
        second = self.skip(role[2] if role else at + 3, "comma", "stop", "newline", "bullet", "cell")
        if not self.has(second, labels[1]) or not self.has(second + 1, "pair"):
            return None
        if role is None:
            return self._finish((self.tokens[at + 2].kinds["name"],), second + 2)
        if not self.has(second + 2, "name") or not self.ends(second + 3):
            return None
        return [RoleClaim((self.tokens[second + 2].kinds["name"],), role[0])], second + 3

    def _among(self, at: int) -> Clause:
        """ "Among them,", "Of the three people,": a claim about nobody, with the number of all persons if stated."""
        count = None
        behind = at + 1
        if not self.has(at, "them"):
            if not self.has(at, "among"):
                return None
            behind = start = self.past(behind, "article")
            while self.has(behind, "count", "number", "people"):
                count = self.stated(behind, count)
                behind += 1
            if behind == start:
                return None
        return ([RoleClaim(NOBODY_NAMED, 0, count=count)], behind + 1) if self.has(behind, "comma") else None

    def _same(self, at: int, previous: int, claims: list[RoleClaim]) -> Clause:
        """ "so is Bob", "as are Bob and Cal", "Bob is too": the role of the clause that ends at `previous`."""
        if not self.has(at, "same", "as", "name") or not claims:
            return None
        if not isinstance(claims[-1].who, tuple) or not claims[-1].who:
            return None
        between = self.kinds[previous:at]
        if not all(kinds & {"comma", "and", "stop", "newline"} for kinds in between):
            return None
        is_as = self.has(at, "as")
        if is_as and any("comma" not in kinds for kinds in between):  # "As is Bob, Ann is a knave" speaks of Ann's role
            return None
        behind_names = not (is_as or self.has(at, "same"))
        start = at if behind_names else at + 2
        for persons, behind in reversed(list(self.names(start, "comma", "and"))):
            verb = behind if behind_names else at + 1
            if not self.has(verb, "is" if len(persons) == 1 else "are"):
                continue
            if behind_names:
                behind = self.past(verb + 1, "too") if self.has(verb + 1, "too") else start
            if behind > start and self.has(behind, "comma", "stop", "newline", "and", "join", "end"):
                return [RoleClaim(persons, claims[-1].role)], behind
        return None

    def _explained(self, at: int) -> Clause:
        role = self.role(self.past(at, "everyone"))
        if role is None:
            return None
        behind = self.past(self.past(role[2], "comma"), "who")
        behind = self.past(self.is_verb(behind) or self.are_verb(behind) or behind, "article")
        told = self.told(behind)
        if told is None or not self.ends(behind + 1):
            return None
        return [RoleClaim(NOBODY_NAMED, role[0], (told,))], behind + 1

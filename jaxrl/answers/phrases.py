"""Parts of statements: roles, verbs, lists of names, list markers, headings."""

from collections.abc import Iterator

from jaxrl.answers.lexer import RoleToken

_END = RoleToken({"end": -1}, "", first=True)
_PADDING = 6  # END tokens behind the answer: the longest look-ahead
_LONGEST_HEADING = 16
_HEADING_NOUNS = ("heading-noun", "name-label", "role-label", "people")
_HEADING_WORDS = ("heading", "determiner", "article", "adjective", "adverb", "here", "follows", "them", "and")
_HEADING_WORDS += ("cell", "comma")


class RolePhrases:
    """The tokens of an answer, and readers of parts of statements.

    A reader takes the position of its first token and returns what it read and the position behind it, or None.
    """

    def __init__(self, tokens: list[RoleToken]):
        self.tokens = [*tokens, *[_END] * _PADDING]
        self.kinds = [token.kinds.keys() for token in self.tokens]

    # Tokens

    def has(self, at: int, *kinds: str) -> bool:
        return not self.kinds[at].isdisjoint(kinds)

    def skip(self, at: int, *kinds: str) -> int:
        while not self.kinds[at].isdisjoint(kinds):
            at += 1
        return at

    def past(self, at: int, *kinds: str) -> int:
        """Behind one optional token."""
        return at if self.kinds[at].isdisjoint(kinds) else at + 1

    def ends(self, at: int) -> bool:
        """Whether a clause may end before this token."""
        return not self.has(at, "is", "are", "must", "be", "pair", "possessive", "not", "or", "role-label")

    # Parts of clauses

    def role(self, at: int) -> tuple[int, bool, int] | None:
        """[article] [only] ROLE: (role, whether "only", position)."""
        for start in (self.past(at, "article"), at):
            behind = self.past(start, "only")
            role = self.tokens[behind].role
            if role is not None:
                return role, behind > start, behind + 1
        return None

    def stated(self, at: int, count: int | None) -> int | None:
        """The number at this token, else `count`."""
        kinds = self.tokens[at].kinds
        return kinds.get("count", kinds.get("number", count))

    def tail(self, at: int) -> tuple[int, int] | None:
        """A restatement of the role: (the role that it implies, position)."""
        opened = self.has(at, "open")
        start = self.past(self.past(at + opened, "comma"), "and", "join")
        if self.has(start, "not"):
            role = self.role(start + 1)
            implied, behind = (1 - role[0], role[2]) if role else (None, start)
        else:
            behind = self.past(start, "who")
            explicit = opened or behind > start
            behind = self.past(self.past(behind, "is", "are"), "article")
            implied = self.told(behind) if explicit or not self.has(behind, "name", "role", "roles") else None
            behind += 1
        if implied is None or (opened and not self.has(behind, "close")):
            return None
        return implied, behind + opened

    def told(self, at: int) -> int | None:
        """The role of those who tell the truth or lie, as this token says."""
        return 0 if self.has(at, "truth") else 1 if self.has(at, "lie") else None

    def is_verb(self, at: int) -> int | None:
        """A verb for one person: "is", "must be", "is therefore"."""
        at = self.skip(at, "adverb")
        if self.has(at, "is"):
            return self.skip(at + 1, "adverb")
        return self._must_be(at)

    def are_verb(self, at: int) -> int | None:
        """A verb for several persons: "are", "are both", "must all be"."""
        at = self.skip(at, "adverb", "each")
        if self.has(at, "are"):
            return self.skip(at + 1, "adverb", "each")
        return self._must_be(at)

    def _must_be(self, at: int) -> int | None:
        if not self.has(at, "must"):
            return None
        at = self.skip(at + 1, "adverb", "each")
        return self.skip(at + 1, "adverb", "each") if self.has(at, "be") else None

    def names(self, at: int, *between: str) -> Iterator[tuple[tuple[int, ...], int]]:
        """The lists of different names that start here, from the shortest: (persons, position)."""
        persons: list[int] = []
        while "name" in self.tokens[at].kinds and (person := self.tokens[at].kinds["name"]) not in persons:
            persons.append(person)
            yield tuple(persons), at + 1
            at, behind = self._between(at + 1, *between), at + 1
            if at == behind:
                return

    def _between(self, at: int, *between: str) -> int:
        """Behind what separates two names of a list: ", and", or line breaks, bullets and numbers if listed."""
        behind = self.past(at, *between)
        while "spelled" not in self.kinds[behind] and self.has(behind, *between):
            behind += 1
        return self.item(behind) if "bullet" in between and behind > at else behind

    def item(self, at: int) -> int:
        """Behind the number or letter of an item of a list of names."""
        marker = self.marker(at) if self.tokens[at].first or not self.has(at, "name") else None
        return marker if marker is not None and self.has(marker, "name") else at

    def marker(self, at: int) -> int | None:
        """Behind the number or letter of a list item: "1.", "(a)", "ii)", "2:"."""
        opened = self.has(at, "open")
        at += opened
        if not self.has(at, "number", "letter"):
            return None
        closed = self.has(at + 1, "close")
        if not closed and (opened or not self._ends_marker(at)):
            return None
        return self.skip(at + 2, "newline", "check")

    def _ends_marker(self, at: int) -> bool:
        if self.tokens[at + 1].text == ".":
            return True
        return self.has(at, "number") and self.has(at + 1, "pair", "dash", "cell")

    # Headings

    def heading(self, at: int) -> int | None:
        """Behind a line, or the start of a line up to a colon, that consists of words about the answer."""
        if not self.tokens[at].first:
            return None
        start, names_something = at, False
        while at - start < _LONGEST_HEADING:
            opened = self.has(at, "open")
            if pair := self.both_roles(at + opened):
                if opened and not self.has(pair, "close"):
                    return None
                at, names_something = pair + opened, True
            elif self.has(at, *_HEADING_NOUNS):
                at, names_something = at + 1, True
            elif self.has(at, *_HEADING_WORDS):
                at += 1
            else:
                break
        return at + 1 if names_something and self.has(at, "pair", "stop", "newline") else None

    def both_roles(self, at: int) -> int | None:
        """Behind "knights and knaves", "knight/knave", "a knight or a knave"."""
        first = self.role(at)
        if first is None or not self.has(first[2], "and", "or", "slash"):
            return None
        second = self.role(first[2] + 1)
        return second[2] if second and second[0] != first[0] else None

    def lead(self, at: int) -> int | None:
        """Behind words that announce a statement: "the final answer is:", "we conclude that", "people:"."""
        if self.has(at, "name-label", "role-label") and self.has(at + 1, "pair"):
            return at + 2
        if self.has(at, "we"):
            at = self.skip(at + 1, "can", "adverb")
            if not self.has(at, "conclude"):
                return None
            at += 1
        elif self.has(at, "in-short"):
            at += 1
        elif self.has(at, "based"):  # "based on the analysis above"
            basis = self.skip(at + 1, "determiner", "each")
            at = self.skip(basis, "basis")
            if at == basis:
                return None
        else:
            noun = self.skip(self.past(at, "here"), "determiner", "only", "adjective")
            if not self.has(noun, "heading-noun"):
                return None
            at = self.past(self.skip(noun, "heading-noun", "them"), "is", "are")
            at = self.past(at, "follows")
        return self.past(self.past(at, "that"), "pair")

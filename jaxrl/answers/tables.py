"""Tables in an answer: rows of cells between `|`."""

from jaxrl.answers.lexer import RoleToken

Cell = list[RoleToken]
Assignment = tuple[tuple[int, ...], int, tuple[int, ...]]  # persons, their role, the role as restated in the row

_LABELS = {"name-label", "role-label", "number-label", "heading-noun", "people", "heading", "article", "and", "of"}


def read_table(tokens: list[RoleToken], at: int) -> tuple[list[Assignment] | None, int]:
    """The assignments of the lines with "|" that start here, or None if they are not a table of roles; the end of them.

    Forms: a row for each person or role, with the columns in any order; a column for each role with names or check
    marks in it; a row of names above a row of roles. `tokens` ends with a token of the kind "end".
    """
    rows, behind = _rows(tokens, at)
    if len(rows) < 2:
        return None, behind
    found = _role_columns(rows) or _person_columns(rows)
    if not found:
        body = rows[1:] if all(_is_label(cell) for cell in rows[0]) else rows
        found = _records(body)
    return found, behind


def _rows(tokens: list[RoleToken], at: int) -> tuple[list[list[Cell]], int]:
    """The cells of the consecutive lines with "|" that start here, and the position behind them."""
    rows: list[list[Cell]] = []
    behind = at
    while "end" not in tokens[at].kinds:
        cells: list[Cell] = [[]]
        while not tokens[at].kinds.keys() & {"newline", "end"}:
            if "cell" in tokens[at].kinds:
                cells.append([])
            else:
                cells[-1].append(tokens[at])
            at += 1
        if len(cells) == 1:
            break
        rows.append(cells[not cells[0] : len(cells) - (not cells[-1])])
        behind = at
        at += "end" not in tokens[at].kinds
    return rows, behind


def _is_label(cell: Cell) -> bool:
    """Whether a cell of the header says what its column holds: "Name", "Role", "Knight or knave"."""
    roles = {token.role for token in cell}
    allowed = _LABELS | {"role", "roles", "slash", "or"} if {0, 1} <= roles else _LABELS
    return all(token.kinds.keys() & allowed for token in cell)


def _names(cell: Cell) -> tuple[int, ...] | None:
    """The persons of a cell with a list of names; none: "none", "-" or an empty cell."""
    if not cell or (len(cell) == 1 and cell[0].kinds.keys() & {"none", "dash"}):
        return ()
    names = [token.kinds["name"] for token in cell if "name" in token.kinds]
    between = [token for token in cell if "name" not in token.kinds]
    plain = all(token.kinds.keys() & {"comma", "and"} for token in between) and "name" in cell[-1].kinds
    return tuple(names) if names and plain and len(between) >= len(names) - 1 else None


def _role(cell: Cell) -> int | None:
    """The role of a cell with one role word."""
    words = cell[1:] if len(cell) > 1 and cell[0].kinds.keys() & {"article", "check"} else cell
    return words[0].role if len(words) == 1 else None


def _told(cell: Cell) -> int | None:
    """The role that a cell restates: "truth-teller", "lies"."""
    kinds = cell[0].kinds if len(cell) == 1 else {}
    return 0 if "truth" in kinds else 1 if "lie" in kinds else None


def _is_number(cell: Cell) -> bool:
    numbered = bool(cell) and not cell[0].kinds.keys().isdisjoint(("number", "letter"))
    return not cell or (numbered and all(token.text in (".", ")") for token in cell[1:]))


def _records(rows: list[list[Cell]]) -> list[Assignment] | None:
    """Rows with names and a role each; other cells may hold a number or restate the role."""
    found = []
    for row in rows:
        roles = [(index, _role(cell)) for index, cell in enumerate(row) if _role(cell) is not None]
        if len(roles) != 1:
            return None
        named = [(i, _names(cell)) for i, cell in enumerate(row) if i != roles[0][0] and cell and _names(cell)]
        others = [cell for i, cell in enumerate(row) if i not in (roles[0][0], *(index for index, _ in named))]
        told = [_told(cell) for cell in others if _told(cell) is not None]
        if len(named) != 1 or any(_told(cell) is None and not _is_number(cell) for cell in others):
            return None
        found.append((named[0][1], roles[0][1], tuple(told)))
    return found


def _role_columns(rows: list[list[Cell]]) -> list[Assignment] | None:
    """A column for each role, with the names of those who have it, or with a check mark in each person's row."""
    columns = {index: _role(cell) for index, cell in enumerate(rows[0]) if _role(cell) is not None}
    labels = [cell for index, cell in enumerate(rows[0]) if index not in columns]
    if sorted(columns.values()) != [0, 1] or not all(_is_label(cell) for cell in labels):
        return None
    found = []
    for row in rows[1:]:
        if len(row) != len(rows[0]):
            return None
        checked = [columns[index] for index in columns if _is_check(row[index])]
        if labels:
            named = [_names(cell) for index, cell in enumerate(row) if index not in columns and _names(cell)]
            if len(named) != 1 or len(checked) != 1 or not all(_is_check(row[i]) or _is_cross(row[i]) for i in columns):
                return None
            found.append((named[0], checked[0], ()))
            continue
        for index, role in columns.items():
            names = _names(row[index])
            if names is None:
                return None
            found += [(names, role, ())] if names else []
    return found


def _is_check(cell: Cell) -> bool:
    return len(cell) == 1 and "check" in cell[0].kinds


def _is_cross(cell: Cell) -> bool:
    return not cell or (len(cell) == 1 and bool(cell[0].kinds.keys() & {"cross", "dash"}))


def _person_columns(rows: list[list[Cell]]) -> list[Assignment] | None:
    """A row of names and a row of roles, with or without a label in front."""
    if len(rows) != 2 or len(rows[0]) != len(rows[1]):
        return None
    above, below = rows
    if _is_label(above[0]) and _is_label(below[0]):
        above, below = above[1:], below[1:]
    if above and all(_role(cell) is not None for cell in above):
        above, below = below, above
    names, roles = [_names(cell) for cell in above], [_role(cell) for cell in below]
    found = [(name, role, ()) for name, role in zip(names, roles, strict=True) if name and role is not None]
    return found if len(found) == len(above) and all(len(name) == 1 for name, _, _ in found) else None

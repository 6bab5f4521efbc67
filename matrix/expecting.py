"""Failures that are known and owned, and forgiven until a day."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from fnmatch import fnmatchcase

from matrix.cells import Cell
from matrix.claims import Matrix
from matrix.errors import Expired, InvalidData
from matrix.facts import require
from matrix.schema import ExpectedFailure


def expected(matrix: Matrix, id_: str) -> ExpectedFailure | None:
    """Return the expected failure of the cell with that id, expired or not."""
    for entry in matrix.expected.values():
        if any(fnmatchcase(id_, pattern) for pattern in entry.cells):
            return entry
    return None


def owned(matrix: Matrix, ids: Iterable[str]) -> dict[str, ExpectedFailure]:
    """Return those of the cells of which a failure is expected, with its entry."""
    if not matrix.expected:
        return {}
    return {id_: entry for id_ in ids if (entry := expected(matrix, id_)) is not None}


def check_expected(
    matrix: Matrix, cells: Sequence[Cell], places: Mapping[str, str], today: date | None
) -> None:
    """Check that each entry is about supported cells, and none of them is past its day.

    Raises:
        UnknownReference: a pattern matches no supported cell.
        InvalidData: a cell has two entries.
        Expired: an entry expired on or before `today`.
    """
    ids = [cell.id for cell in cells if cell.unsupported is None]
    owners: dict[str, str] = {}
    for name, entry in matrix.expected.items():
        for pattern in entry.cells:
            require(pattern, ids, f"{places[name]}.cells", "supported cell")
            for id_ in ids:
                if fnmatchcase(id_, pattern) and owners.setdefault(id_, name) != name:
                    raise InvalidData(
                        f"{places[name]}.cells: {id_} is expected to fail by {owners[id_]!r} too.",
                        "A failure has one reason, one owner and one day.",
                        "Narrow the patterns of one of the two.",
                    )
        if today is not None and today >= entry.expires:
            raise Expired(
                f"{places[name]}: the expected failure {name!r} expired on {entry.expires}.",
                f"It was forgiven because: {entry.reason}",
                f"{entry.owner} removes the entry, or gives it another day and says why in "
                f"{entry.issue}.",
            )

"""Counts cells and claims: how many there are and are supported, by part and by rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from matrix.cells import Cell, expand
from matrix.claims import Matrix
from matrix.released import Claims

Tally = dict[str, dict[str, dict[str, int]]]
"""Part (all, hardware, CANN, rule, ...) to name to what is counted to the number."""


def tally(matrix: Matrix) -> Tally:
    """Return the numbers of cells that are run here, and of claims about released checkpoints."""
    cells = expand(matrix)
    found = _count("cells", cells, matrix)
    claims = list(Claims(matrix))
    found |= _count("claims", [claim.cell for claim in claims], matrix)
    supported = [claim for claim in claims if claim.cell.unsupported is None]
    how = Counter(", ".join(s.shows for s in claim.shown_by) or "nothing" for claim in supported)
    found["claims, supported ones by what of them is shown on stand-ins"] = {
        name: {"claims": number} for name, number in how.most_common()
    }
    return found


def _count(sort: str, cells: Iterable[Cell], matrix: Matrix) -> Tally:
    parts: dict[str, Counter[tuple[str, bool]]] = {
        p: Counter() for p in ("all", "hardware", "CANN")
    }
    rules: Counter[str] = Counter()
    for cell in cells:
        supported = cell.unsupported is None
        parts["all"]["all", supported] += 1
        parts["hardware"][cell.hardware.name, supported] += 1
        parts["CANN"][cell.cann.version, supported] += 1
        if cell.unsupported is not None:
            rules[cell.unsupported.name] += 1
    found: Tally = {}
    for part, counts in parts.items():
        names = dict.fromkeys(name for name, _ in counts)
        found[sort if part == "all" else f"{sort} by {part}"] = {
            name: {
                "in all": counts[name, True] + counts[name, False],
                "supported": counts[name, True],
            }
            for name in names
        }
    effects = {rule.name: rule.effect for rule in matrix.rules}
    found[f"{sort} that a rule excludes"] = {
        name: {effects[name]: number} for name, number in rules.most_common()
    }
    return found

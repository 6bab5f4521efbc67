"""From what a change means to the cells to run, each with every reason. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ci.changes import Effects
from ci.learned import Entry, Learned, Unit
from matrix import Cell, covering

Hashes = Callable[[str], Mapping[str, str]]
"""A path to the hashes of its functions at the revision that is compared with."""

SHOWN = 3
"""Reasons of a cell that are told; the rest is counted."""


@dataclass
class Impact:
    """Cells with their reasons, in the order in which they were found."""

    cells: dict[str, Cell] = field(default_factory=dict)
    reasons: dict[str, list[str]] = field(default_factory=dict)

    def add(self, cell: Cell, reason: str) -> None:
        """Take a cell, or one more reason for it."""
        self.cells[cell.id] = cell
        told = self.reasons.setdefault(cell.id, [])
        if reason not in told:
            told.append(reason)

    def told(self) -> dict[str, str]:
        """The reasons of each cell in one line."""
        return {id_: _told(reasons) for id_, reasons in self.reasons.items()}


def impact(
    effects: Effects,
    known: Learned,
    hashes: Hashes,
    supported: Sequence[Cell],
    scope: Sequence[Cell],
    small: Sequence[Cell],
) -> Impact:
    """The cells that a change can affect.

    Within the scope all of them are taken. Beyond it, where nobody looks at every change, a
    covering array is taken of those that run what no cell of the scope does, and of those whose
    definition changed.

    Args:
        effects: What the change means.
        known: What cells were seen to run.
        hashes: Of the functions of a file, at the revision.
        supported: Every cell that can run.
        scope: The cells that a change is judged by, such as the selection pr.
        small: What runs where no cell is affected, such as the selection smoke.
    """
    found = Impact()
    for reason in effects.whole:
        for cell in scope:
            found.add(cell, reason)
    by_id = {cell.id: cell for cell in supported}
    inside = {cell.id for cell in scope}
    for (path, name), runners in _runners(effects, known):
        _add_runners(found, runners, by_id, inside, path, name)
    if effects.units or effects.operators:
        for cell in scope:
            reason = _doubt(known.cells.get(cell.id), hashes)
            if reason:
                found.add(cell, reason)
    _add_redefined(found, effects.cells, by_id, inside)
    if not found.cells:
        for cell in small:
            found.add(cell, (effects.around or ["nothing is known to be affected"])[0])
    return found


def _runners(effects: Effects, known: Learned) -> list[tuple[Unit, list[str]]]:
    """What changed, with the cells that were seen to run it."""
    units = [
        ((path, f"{name} changed"), known.running((path, name))) for path, name in effects.units
    ]
    operators = [
        ((path, "changed, of which the cell launched an operator"), known.launching(names))
        for path, names in effects.operators.items()
    ]
    return units + operators


def _add_runners(
    found: Impact,
    runners: Sequence[str],
    by_id: Mapping[str, Cell],
    inside: Collection[str],
    path: str,
    what: str,
) -> None:
    running = [by_id[id_] for id_ in runners if id_ in by_id]
    near = [cell for cell in running if cell.id in inside]
    for cell in near or covering(running):
        where = "" if near else ", and no cell of the selection does"
        found.add(cell, f"{path}: {what}; the cell ran it{where}")


def _doubt(entry: Entry | None, hashes: Hashes) -> str:
    """Why a cell counts as affected though nothing says that it is; nothing where it does not."""
    if entry is None:
        return "what it runs was never learned"
    for (path, name), learned in entry.units.items():
        if hashes(path).get(name) != learned:
            return f"what it runs was learned on {entry.day}, before {path}: {name} was changed"
    return ""


def _add_redefined(
    found: Impact, cells: Mapping[str, str], by_id: Mapping[str, Cell], inside: Collection[str]
) -> None:
    for id_, reason in cells.items():
        if id_ in inside:
            found.add(by_id[id_], reason)
    beyond = [by_id[id_] for id_ in cells if id_ in by_id and id_ not in inside]
    for cell in covering(beyond, list(found.cells.values())):
        found.add(cell, cells[cell.id])


def _told(reasons: Sequence[str]) -> str:
    more = len(reasons) - SHOWN
    return "; ".join(reasons[:SHOWN]) + (f"; and {more} more reasons" if more > 0 else "")

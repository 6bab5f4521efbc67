"""How many cells are in which state, by family, feature, hardware or another axis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from matrix.cells import Cell
from reports.statuses import SYMBOLS, Status

AXES: Mapping[str, Callable[[Cell], str]] = {
    "model": lambda cell: cell.model.name,
    "family": lambda cell: cell.model.family,
    "task": lambda cell: cell.model.task,
    "feature": lambda cell: cell.feature.name,
    "cann": lambda cell: cell.cann.version,
    "hardware": lambda cell: cell.hardware.name,
}
"""What cells can be grouped by."""


def grouped(
    cells: Mapping[str, Cell], statuses: Sequence[Status], axes: Sequence[str]
) -> dict[tuple[str, ...], dict[str, int]]:
    """Return how many supported cells each group has, and how many of them are in each state.

    Args:
        cells: every cell by id.
        statuses: those that are counted; unsupported ones are left out.
        axes: names of `AXES`; a group is one value of each.

    Returns:
        Values of the axes to `supported` and the name of each state, in the order in which groups
        are first met; groups without a supported cell are not there.
    """
    found: dict[tuple[str, ...], Counter[str]] = {}
    for status in statuses:
        if status.state != "unsupported":
            group = tuple(AXES[axis](cells[status.cell]) for axis in axes)
            found.setdefault(group, Counter())[status.state] += 1
    states = [state for state in SYMBOLS if state != "unsupported"]
    return {
        group: {"supported": counted.total(), **{state: counted[state] for state in states}}
        for group, counted in found.items()
    }

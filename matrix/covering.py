"""Covering arrays: few cells that hold every feasible pair of values, the most telling ones first.

A pair is two values, such as a model and a CANN version, or two features that are on at once. What
the rules leave is known cell by cell, so that rows are taken from there: none is infeasible, and
every pair that any supported cell has is covered. The next row is always the one with the most new
pairs (for its cost, where costs are given), so that an array which ends early has covered most of
what it could.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations, count

from matrix.cells import Cell

AXES: Mapping[str, Callable[[Cell], Sequence[str]]] = {
    "model": lambda cell: (cell.model.name,),
    "feature": lambda cell: cell.feature.name.split("+"),
    "cann": lambda cell: (cell.cann.version,),
    "hardware": lambda cell: (cell.hardware.name,),
}
"""What the values of a cell are that make pairs; a cell with two features has two of that axis."""

LEAST_COST = 0.1
"""No cell counts as cheaper than this, so that one without an estimate does not outweigh all."""


def covering(
    cells: Sequence[Cell],
    covered: Iterable[Cell] = (),
    cost: Mapping[str, float] | None = None,
    takes: Callable[[Cell], bool] = lambda _: True,
) -> list[Cell]:
    """Return the cells that together hold every pair, the one with most new pairs always next.

    Args:
        cells: candidates; ties are decided by their order.
        covered: cells that run anyway, whose pairs are not new.
        cost: cell id to what it costs; new pairs are counted per cost. Equal if absent.
        takes: asked of each cell when it is the best one; one that is refused covers nothing.
    """
    numbers = _Numbers()
    own = [numbers.of(cell) for cell in cells]
    weight = [1.0 if cost is None else max(cost[cell.id], LEAST_COST) for cell in cells]
    left = {pair for pairs in own for pair in pairs}
    for cell in covered:
        left.difference_update(numbers.of(cell))
    # A cell's new pairs only ever get fewer, so that what was computed earlier is a bound: only
    # the cell with the best bound has to be looked at anew.
    heap = [(-len(pairs) / weight[i], i) for i, pairs in enumerate(own)]
    heapq.heapify(heap)
    rows = []
    while heap and left:
        _, i = heapq.heappop(heap)
        new = [pair for pair in own[i] if pair in left]
        now = -len(new) / weight[i], i
        if heap and now > heap[0]:
            if new:
                heapq.heappush(heap, now)
        elif new and takes(cells[i]):
            left.difference_update(new)
            rows.append(cells[i])
    return rows


def ordered(cells: Sequence[Cell], covered: Iterable[Cell] = ()) -> list[Cell]:
    """Return all cells, those of a covering array first, and the others in their order."""
    rows = covering(cells, covered)
    taken = {cell.id for cell in rows}
    return rows + [cell for cell in cells if cell.id not in taken]


def share(cells: Iterable[Cell], of: Iterable[Cell]) -> float:
    """Return which share of the pairs of `of` the cells hold, from 0 to 1."""
    numbers = _Numbers()
    wanted = {pair for cell in of for pair in numbers.of(cell)}
    held = {pair for cell in cells for pair in numbers.of(cell)}
    return len(held & wanted) / len(wanted) if wanted else 1.0


def within(
    cells: Sequence[Cell],
    cost: Mapping[str, float],
    budget: float,
    longest: float | None = None,
    must: Iterable[Cell] = (),
) -> list[Cell]:
    """Return what covers most pairs within a budget, in the order in which to run it.

    Args:
        cells: candidates.
        cost: cell id to what it costs.
        budget: what all of them may cost together.
        longest: what one of them may cost; the budget if absent.
        must: cells to take before all others, as far as they fit.
    """
    limit = budget if longest is None else longest

    def takes(cell: Cell) -> bool:
        nonlocal budget
        fits = cost[cell.id] <= min(budget, limit)
        budget -= cost[cell.id] if fits else 0.0
        return fits

    chosen = [cell for cell in must if takes(cell)]
    taken = {cell.id for cell in chosen}
    chosen += covering([c for c in cells if c.id not in taken], chosen, cost, takes)
    taken = {cell.id for cell in chosen}
    rest = [cell for cell in cells if cell.id not in taken]
    return chosen + [cell for cell in sorted(rest, key=lambda c: cost[c.id]) if takes(cell)]


class _Numbers:
    """Gives every pair of values a number, so that sets of them are small and quick."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], int] = {}
        self._next = count(1)

    def of(self, cell: Cell) -> tuple[int, ...]:
        """Return the numbers of a cell's pairs."""
        values = [self._number(axis, v) for axis, of in AXES.items() for v in of(cell)]
        return tuple(a << 32 | b for a, b in combinations(values, 2))

    def _number(self, axis: str, value: str) -> int:
        key = axis, value
        found = self._values.get(key)
        if found is None:
            found = self._values[key] = next(self._next)
        return found

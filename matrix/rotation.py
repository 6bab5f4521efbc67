"""What a night runs: every cell has its turn within a number of nights, the doubtful ones first.

Which cells have their turn follows from the date and the cells alone, so that it can be told in
advance. What is known of earlier runs only changes the order, and brings back what was missed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import accumulate

from matrix.cells import Cell
from matrix.covering import covering, ordered

UNSTABLE_SHARE = 0.25
"""How much of a budget unstable cells may take first; those beyond it wait for their turn."""


@dataclass(frozen=True)
class Seen:
    """What earlier runs say of a cell.

    Attributes:
        last: the day of its newest run; None if it never ran.
        unstable: whether it failed lately, or came out now one way and now the other.
    """

    last: date | None = None
    unstable: bool = False


@dataclass(frozen=True)
class Night:
    """The cells of one night in the order in which they should run.

    Attributes:
        reasons: cell id to why it runs, in a few words, in the order in which cells run.
        cells: the cells themselves.
        missed: cells whose turn it is, and for which the budget is too small.
        needed: the budget a night with which no turn is missed.
    """

    cells: list[Cell]
    reasons: dict[str, str]
    missed: list[Cell]
    needed: float

    def shortage(self, nights: int, unit: str, each: float = 1.0) -> str:
        """Return what to say about a budget that is too small.

        Args:
            nights: of the rotation.
            unit: what budgets are told in.
            each: how much of the costs one unit is.
        """
        return (
            f"the budget is too small for {len(self.missed)} cells whose turn it is, the first of "
            f"them {self.missed[0].id}; that every cell runs within {nights} nights takes "
            f"{math.ceil(self.needed / each)} {unit} a night"
        )


@dataclass
class _Basket:
    """What fits into a budget; None takes everything."""

    left: float | None
    cost: Mapping[str, float]
    cells: list[Cell] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    def take(self, cell: Cell, reason: str) -> bool:
        """Whether the cell is in the basket, into which it is put if it fits."""
        if cell.id in self.reasons:
            return True
        cost = self.cost.get(cell.id, 1.0)
        if self.left is not None:
            if cost > self.left:
                return False
            self.left -= cost
        self.cells.append(cell)
        self.reasons[cell.id] = reason
        return True

    def put(self, cells: Iterable[Cell], reason: str) -> list[Cell]:
        """Take what fits; return what does not."""
        return [cell for cell in cells if not self.take(cell, reason)]


def night(
    cells: Sequence[Cell],
    day: date,
    nights: int = 7,
    budget: float | None = None,
    cost: Mapping[str, float] | None = None,
    seen: Mapping[str, Seen] | None = None,
    must: Iterable[Cell] = (),
) -> Night:
    """Return what runs on the night of `day`.

    First what must run, then unstable cells up to a quarter of the budget, then cells that were
    missed, then those whose turn it is, then those that never ran, then cells with pairs that none
    of these has, and then, as long as there is budget, the rest. Among equals the longest untested
    come first, and among those what covers most pairs.

    Args:
        cells: every supported cell that nights are made of.
        day: the night's date.
        nights: in how many nights each cell has its turn once.
        budget: what the cells of a night may cost; None for as much as there is to do.
        cost: cell id to what it costs; 1 where it is not given.
        seen: cell id to what is known of it; None where nothing is known of any.
        must: cells that run every night.
    """
    cost = cost or {}
    known = seen or {}
    turns = _turns(cells, nights, cost)
    tonight = day.toordinal() % nights
    always = list(must)
    rank = {cell.id: i for i, cell in enumerate(ordered(cells, always))}
    unstable = [cell for cell in cells if known.get(cell.id, Seen()).unstable]
    missed = [cell for cell in cells if nights < _age(known, cell, day) < math.inf]
    new = [] if seen is None else [cell for cell in cells if cell.id not in seen]
    due = [cell for cell in cells if turns[cell.id] == tonight]

    def by_age(cell: Cell) -> tuple[float, bool, int]:
        return -_age(known, cell, day), turns[cell.id] != tonight, rank[cell.id]

    basket = _Basket(budget, cost)
    late = basket.put(always, "runs every night")
    for cell in sorted(unstable, key=by_age):
        if budget is None or budget - (basket.left or 0.0) < budget * UNSTABLE_SHARE:
            basket.take(cell, "unstable")
    late += basket.put(sorted(missed, key=by_age), "untested for longer than a rotation")
    late += basket.put(sorted(due, key=by_age), f"its turn of {nights} nights")
    if budget is not None:
        basket.put(sorted(new, key=by_age), "never ran")
    others = [cell for cell in cells if cell.id not in basket.reasons]
    reason = "pairs that no other cell of the night has"
    covering(others, list(basket.cells), takes=lambda cell: basket.take(cell, reason))
    if budget is not None:
        basket.put(sorted(cells, key=by_age), "there is time left")
    return Night(
        basket.cells, basket.reasons, late, needed(cells, nights, cost, [*always, *unstable])
    )


def needed(
    cells: Sequence[Cell], nights: int, cost: Mapping[str, float], nightly: Iterable[Cell] = ()
) -> float:
    """Return the budget of a night with which every cell has its turn in so many nights.

    Args:
        cells: every supported cell.
        nights: in how many nights.
        cost: cell id to what it costs; 1 where it is not given.
        nightly: cells that run every night, whose cost comes on top.
    """
    turns, sums = _turns(cells, nights, cost), [0.0] * nights
    for cell in cells:
        sums[turns[cell.id]] += cost.get(cell.id, 1.0)
    fixed = {cell.id: cost.get(cell.id, 1.0) for cell in nightly}
    return max(sums) + sum(fixed.values())


def _turns(cells: Sequence[Cell], nights: int, cost: Mapping[str, float]) -> dict[str, int]:
    """Which of the nights is each cell's, so that all nights cost about the same.

    A hash of the id decides the order in which nights are filled: neighbours in the matrix are
    far apart, and a new cell moves few others.
    """
    shuffled = sorted((cell.id for cell in cells), key=_hash)
    costs = [cost.get(id_, 1.0) for id_ in shuffled]
    total = sum(costs) or 1.0
    middles = (end - own / 2 for end, own in zip(accumulate(costs), costs, strict=True))
    return {
        id_: min(int(middle * nights / total), nights - 1)
        for id_, middle in zip(shuffled, middles, strict=True)
    }


def _hash(id_: str) -> bytes:
    return hashlib.sha256(id_.encode()).digest()


def _age(known: Mapping[str, Seen], cell: Cell, day: date) -> float:
    """Days since the newest run; infinite for a cell that never ran or is not known."""
    last = known.get(cell.id, Seen()).last
    return math.inf if last is None else (day - last).days

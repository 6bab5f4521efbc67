"""What earlier runs say of cells: when each ran last, and which of them are unstable. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Protocol

from matrix import Seen

LOOKED_AT = 5
"""How many of a cell's newest runs decide whether it is unstable."""

LATELY = timedelta(days=14)
"""Older runs say nothing of a cell's stability any more."""


class Ended(Protocol):
    """What this reads of a record."""

    @property
    def cell(self) -> str:
        """The cell's id."""

    @property
    def verdict(self) -> str:
        """How the run ended."""

    @property
    def started(self) -> datetime:
        """When it began, in UTC."""


def seen(records: Iterable[Ended], now: datetime) -> dict[str, Seen]:
    """What is known of each cell that has a record.

    A cell is unstable if one of its newest runs of late did not pass: it is broken, or was until a
    moment ago, or comes out now one way and now the other. All three are worth another look before
    cells that have always passed.

    Args:
        records: Runs of one kind, in any order.
        now: The end of what counts as lately.
    """
    runs: dict[str, list[Ended]] = {}
    for record in records:
        runs.setdefault(record.cell, []).append(record)
    return {cell: _seen(own, now) for cell, own in runs.items()}


def _seen(runs: list[Ended], now: datetime) -> Seen:
    newest = sorted(runs, key=lambda record: record.started, reverse=True)[:LOOKED_AT]
    unstable = any(r.verdict != "passed" for r in newest if now - r.started <= LATELY)
    return Seen(newest[0].started.date(), unstable)

"""Turns selected cells into a plan: which environment runs which cells, longest first. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from matrix import Cell

DEFAULT_ESTIMATE_S = {"inprocess": 15.0, "http": 45.0}
"""Seconds assumed for a cell of which nothing is known, by its feature's transport: a server
imports the whole stack anew."""

DEFAULT_DEVICES = 2
"""How many devices a process sees unless a cell needs more."""


class Timed(Protocol):
    """What an estimate reads of a record."""

    @property
    def cell(self) -> str:
        """The cell's id."""

    @property
    def verdict(self) -> str:
        """How the run ended."""

    @property
    def seconds(self) -> float:
        """How long it took."""


@dataclass(frozen=True)
class Job:
    """One cell to run.

    Args:
        cell: The cell.
        estimate: How many seconds it is expected to take.
    """

    cell: Cell
    estimate: float


@dataclass(frozen=True)
class Group:
    """Cells that share an environment, and so one process that has imported the stack.

    Args:
        chip: The chip's name as torch_npu reports it.
        cann: The CANN version.
        devices: How many devices the processes see.
        jobs: The cells, longest first.
    """

    chip: str
    cann: str
    devices: int
    jobs: tuple[Job, ...]

    @property
    def name(self) -> str:
        """A label for people and for folder names."""
        return f"{self.chip}-cann-{self.cann}"

    @property
    def seconds(self) -> float:
        """The work in the group, one cell after the other."""
        return sum(job.estimate for job in self.jobs)


@dataclass(frozen=True)
class Plan:
    """Groups in the order in which they start."""

    groups: tuple[Group, ...]

    @property
    def jobs(self) -> list[Job]:
        """Every cell in the order in which it starts."""
        return [job for group in self.groups for job in group.jobs]

    def makespan(self, parallel: int) -> float:
        """Seconds from the first start to the last end with so many cells at a time."""
        slots = [0.0] * max(1, parallel)
        for job in self.jobs:
            heapq.heappush(slots, heapq.heappop(slots) + job.estimate)
        return max(slots)


def estimate(cells: Iterable[Cell], records: Iterable[Timed]) -> dict[str, float]:
    """Seconds expected for each cell, by id.

    The median of the cell's own passed runs; for a cell that has none, of its feature's; else a
    constant. Runs that did not pass say nothing about the time of one that does.

    Args:
        cells: The cells to estimate.
        records: Earlier runs, in any order.
    """
    own: dict[str, list[float]] = {}
    by_feature: dict[str, list[float]] = {}
    for record in records:
        if record.verdict == "passed":
            own.setdefault(record.cell, []).append(record.seconds)
            by_feature.setdefault(record.cell.split("/")[1], []).append(record.seconds)
    return {
        cell.id: median(
            own.get(cell.id)
            or by_feature.get(cell.feature.name)
            or [DEFAULT_ESTIMATE_S[cell.feature.transport]]
        )
        for cell in cells
    }


def make(cells: Sequence[Cell], estimates: Mapping[str, float]) -> Plan:
    """Groups cells by environment, longest first within a group and among groups.

    Longest first keeps the last seconds of a run short. Ties keep the order of the matrix.

    Args:
        cells: The cells to run, each with an entry in ``estimates``.
        estimates: Seconds by cell id.
    """
    grouped: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        grouped.setdefault((cell.hardware.soc, cell.cann.version), []).append(cell)
    groups = []
    for (chip, cann), members in grouped.items():
        jobs = [Job(cell, estimates[cell.id]) for cell in members]
        jobs.sort(key=lambda job: -job.estimate)
        devices = max(DEFAULT_DEVICES, *(cell.feature.cards for cell in members))
        groups.append(Group(chip, cann, devices, tuple(jobs)))
    groups.sort(key=lambda group: -group.seconds)
    return Plan(tuple(groups))

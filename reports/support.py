"""The support tables as data: per CANN version and hardware, model by feature, from statuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from matrix import CannVersion, Cell, Feature, Hardware, Matrix, Model, everything
from reports.expected import with_expected
from reports.places import published
from reports.record import Kind, Record
from reports.statuses import KINDS, SYMBOLS, Policy, Status, statuses
from reports.store import Store

DISCLAIMER = (
    "Nothing here has run on a real NPU. Simulated evidence comes from the unmodified torch-npu "
    "on cannsim, an implementation of CANN's interfaces on the CPU."
)
"""What every table and page says as long as no record of hardware is in the store."""


@dataclass(frozen=True)
class Table:
    """Model by feature on one CANN version and hardware.

    Attributes:
        rows: model to feature name to status.
        evidence: where the statuses come from, in words.
    """

    cann: CannVersion
    hardware: Hardware
    features: tuple[Feature, ...]
    rows: tuple[tuple[Model, Mapping[str, Status]], ...]
    evidence: str

    @property
    def title(self) -> str:
        """Hardware and CANN version."""
        return f"{self.hardware.title} ({self.hardware.soc}), CANN {self.cann.version}"


class History(Mapping[str, Sequence[Record]]):
    """Cell id to its records of every kind, newest first.

    Those of a clock that was ahead stand at the end: when they ran is not known.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    @cached_property
    def _records(self) -> Mapping[str, Sequence[Record]]:
        found: dict[str, list[Record]] = {}
        ahead: dict[str, list[Record]] = {}
        for stored in self._store.stored():
            into = ahead if stored.ahead else found
            into.setdefault(stored.record.cell, []).append(stored.record)
        cells = found | ahead
        return {cell: [*found.get(cell, [])[::-1], *ahead.get(cell, [])] for cell in cells}

    def __getitem__(self, cell: str) -> Sequence[Record]:
        return self._records[cell]

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)


@dataclass(frozen=True)
class Support:
    """Everything that tables, pages and exports are made of.

    Attributes:
        cells: every cell by id, unsupported ones too.
        kind: the kind of runs that `statuses` and `tables` are about.
        statuses: cell id to status.
        marks: kind of runs to cell id to status, for every kind.
        history: cell id to its records of every kind, newest first; read when it is asked for.
    """

    matrix: Matrix
    now: datetime
    policy: Policy
    kind: Kind
    cells: Mapping[str, Cell]
    statuses: Mapping[str, Status]
    marks: Mapping[Kind, Mapping[str, Status]]
    history: Mapping[str, Sequence[Record]]
    tables: tuple[Table, ...]

    @property
    def counts(self) -> Counter[str]:
        """Number of cells in each state that occurs, in the order of the legend."""
        return self.counted(self.kind)

    def counted(self, kind: Kind) -> Counter[str]:
        """Number of cells in each state that occurs in runs of one kind."""
        found = Counter(s.state if s.applicable else "n/a" for s in self.marks[kind].values())
        return Counter({state: found[state] for state in (*SYMBOLS, "n/a") if found[state]})

    def numbers(self, kind: Kind) -> dict[str, int]:
        """How many cells there are, are supported, and are in each state, in runs of one kind."""
        found = self.counted(kind)
        outside = found["unsupported"] + found["n/a"]
        states = {state: found[state] for state in (*SYMBOLS, "n/a")}
        return {"cells": found.total(), "supported": found.total() - outside, **states}

    @property
    def on_hardware(self) -> bool:
        """Whether any status rests on a run on a real NPU."""
        return any(
            status.evidence == "hardware"
            for marks in self.marks.values()
            for status in marks.values()
        )


def derive(
    matrix: Matrix,
    store: Store,
    now: datetime,
    max_age_days: float | None = None,
    kind: Kind = "e2e",
) -> Support:
    """Return the statuses of every cell, arranged as tables.

    The newest record of each cell, kind and evidence is read, and the others where somebody asks
    for the history.
    """
    policy = Policy.of(matrix.release)
    if max_age_days is not None:
        policy = Policy(timedelta(days=max_age_days), policy.versions)
    cells = everything(matrix)
    newest = store.newest()
    marks = {each: statuses(cells, newest, now, policy, each) for each in KINDS}
    marks["e2e"] = with_expected(matrix, marks["e2e"], now)
    asked = [pattern for suite in matrix.accuracy.values() for pattern in suite.cells]
    marks["accuracy"] = {id_: _asked(asked, status) for id_, status in marks["accuracy"].items()}
    return Support(
        matrix=matrix,
        now=now,
        policy=policy,
        kind=kind,
        cells={cell.id: cell for cell in cells},
        statuses=marks[kind],
        marks=marks,
        history=History(store),
        tables=_tables(matrix, cells, marks[kind]),
    )


def _asked(patterns: Sequence[str], status: Status) -> Status:
    """Return the status of accuracy, with a word on a cell of which no suite's pattern asks it."""
    if status.state != "never-run" or any(fnmatchcase(status.cell, p) for p in patterns):
        return status
    return replace(status, reason="no suite of matrix/accuracy.yaml asks this cell")


def _tables(
    matrix: Matrix, cells: Sequence[Cell], known: Mapping[str, Status]
) -> tuple[Table, ...]:
    # Real checkpoints come before stand-ins.
    order = sorted(matrix.models, key=lambda name: matrix.models[name].stand_in)
    arranged: dict[tuple[str, str], dict[str, dict[str, Status]]] = {}
    for cell in cells:
        rows = arranged.setdefault((cell.hardware.name, cell.cann.version), {})
        rows.setdefault(cell.model.name, {})[cell.feature.name] = known[cell.id]
    tables = []
    for hardware in matrix.hardware.values():
        for cann in reversed(matrix.cann.values()):  # the newest first
            rows = arranged.get((hardware.name, cann.version), {})
            found = [status for row in rows.values() for status in row.values()]
            tables.append(
                Table(
                    cann=cann,
                    hardware=hardware,
                    features=tuple(matrix.features.values()),
                    rows=tuple((matrix.models[name], rows.get(name, {})) for name in order),
                    evidence=evidence_in_words(found, hardware),
                )
            )
    return tuple(tables)


def evidence_in_words(found: Sequence[Status], hardware: Hardware) -> str:
    """Return what sort of evidence the statuses rest on; a table without records says so."""
    sorts = {status.evidence for status in found if status.evidence}
    if not sorts:
        return f"none yet (runs at hand are {' or '.join(hardware.evidence)})"
    if sorts == {"simulated"}:
        return "simulated (no real NPU)"
    return "hardware" if sorts == {"hardware"} else "hardware and simulated; each cell says which"


def as_json(support: Support) -> dict[str, Any]:
    """Return everything that the tables show, with the newest record of each cell."""
    return {
        "schema": 1,
        "generated": support.now.isoformat(),
        "kind": support.kind,
        "release": support.matrix.release.model_dump(mode="json"),
        "max_age_days": support.policy.max_age / timedelta(days=1),
        "note": "" if support.on_hardware else DISCLAIMER,
        "summary": dict(support.counts),
        "cells": [_cell(status, support) for status in support.statuses.values()],
    }


def _cell(status: Status, support: Support) -> dict[str, Any]:
    """Return the status of the chosen kind with its record, and those of all kinds in short."""
    marks = {kind: statuses[status.cell] for kind, statuses in support.marks.items()}
    return {
        "id": status.cell,
        "state": status.state,
        "reason": status.reason,
        "evidence": status.evidence,
        "record": published(status.record).document() if status.record else None,
        "kinds": {
            kind: {
                "state": mark.state,
                "reason": mark.reason,
                "evidence": mark.evidence,
                "record": mark.record.id if mark.record else None,
            }
            for kind, mark in marks.items()
        },
    }

"""Which cells a command line asks for, each with the reason why it was chosen."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import cache

import matrix
from ci import changes, environment, functions, history, impact, learned, outputs, plan
from ci.errors import NothingSelectedError
from matrix import Cell, Selection
from matrix.covering import within
from matrix.expecting import owned
from matrix.selecting import find
from reports.outcome import Expected
from reports.store import Store

DEFAULT_SELECTION = "smoke"
"""What runs if nothing is asked for."""


@dataclass(frozen=True)
class Chosen:
    """The cells to run.

    Attributes:
        cells: in the order in which they cover most.
        estimates: cell id to the seconds that it is expected to take.
        reasons: cell id to why it was chosen.
        expected: cell id to the failure that is expected of it.
    """

    cells: list[Cell]
    estimates: Mapping[str, float]
    reasons: Mapping[str, str]
    expected: Expected = field(default_factory=dict)

    @property
    def plan(self) -> plan.Plan:
        """The same as a plan."""
        return plan.make(self.cells, self.estimates)


def choose(options: argparse.Namespace, store: Store, jobs: int) -> Chosen:
    """What the command line selects.

    Raises:
        Expired: A failure is no longer to be expected.
        MatrixError: A pattern or a selection is unknown, or selects nothing.
        NothingSelectedError: The change can affect no cell, or nothing fits the budget.
    """
    claims = matrix.load(today=datetime.now(UTC).date())
    found = select(options, claims, store, jobs)
    return replace(found, expected=owned(claims, [cell.id for cell in found.cells]))


def select(options: argparse.Namespace, claims: matrix.Matrix, store: Store, jobs: int) -> Chosen:
    """The same from a matrix that is loaded."""
    cells = matrix.everything(claims)
    name = options.select or ("pr" if options.changed_from else None)
    if name is None and not options.patterns:
        name = DEFAULT_SELECTION
    selected = matrix.select(claims, cells, options.patterns, name)
    reasons: Mapping[str, str] = {cell.id: _asked(options.patterns, name) for cell in selected}
    if options.changed_from:
        selected, reasons = changed(options, claims, cells, selected)
    runs = store.runs("e2e", history.LOOKED_AT)
    estimates = plan.estimate(selected, runs)
    wanted = find(claims, name) if name else None
    budget = Budget(options.budget, jobs) if options.budget else None
    if wanted is not None and wanted.nights is not None and not options.changed_from:
        seen = history.seen(runs, datetime.now(UTC))
        return tonight(selected, wanted, options.date, estimates, budget, seen)
    if budget is not None:
        selected = fitting(selected, estimates, budget, wanted)
    return Chosen(selected, estimates, {cell.id: reasons[cell.id] for cell in selected})


def changed(
    options: argparse.Namespace, claims: matrix.Matrix, cells: Sequence[Cell], scope: Sequence[Cell]
) -> tuple[list[Cell], Mapping[str, str]]:
    """The cells that the change since a revision can affect, with the reasons.

    Raises:
        HarmlessError: The change can affect no cell.
    """
    revision = changes.Revision(environment.ROOT, options.changed_from)
    paths = changes.can_affect(revision.changed())
    if not paths:
        raise changes.HarmlessError(
            f"nothing that changed since {options.changed_from} can affect a cell",
            "only documentation changed, or nothing at all",
            "run `nox -s e2e` without --changed-from to run the smoke selection all the same",
        )
    known = learned.load(environment.ROOT / options.map)
    if not known.cells:
        outputs.warn(
            f"{options.map}: nothing is known of what cells run, so that every cell of the "
            "selection counts as affected; nights learn it, and `nox -s e2e -- --learn --select pr`"
        )
    before = None
    if any(changes.area(path) == "definitions" for path in paths):
        old = revision.matrix()
        before = None if old is None else matrix.everything(old)

    @cache
    def hashes(path: str) -> Mapping[str, str]:
        source = revision.source(path)
        return functions.hashes(source) if source is not None else {}

    found = impact.impact(
        changes.effects(revision.changes(paths), known, before, cells),
        known,
        hashes,
        [cell for cell in cells if cell.unsupported is None],
        scope,
        matrix.select(claims, cells, (), DEFAULT_SELECTION),
    )
    return list(found.cells.values()), found.told()


def explain(chosen: Chosen, limit: int | None = None) -> None:
    """Says on standard error why cells were chosen: each of them, or the first of each reason."""
    by_reason: dict[str, list[Cell]] = {}
    for cell in chosen.cells:
        by_reason.setdefault(chosen.reasons[cell.id], []).append(cell)
    if limit is None:
        for cell in chosen.cells:
            print(f"{cell.id}: {chosen.reasons[cell.id]}", file=sys.stderr)
        return
    for reason, cells in list(by_reason.items())[:limit]:
        more = f" and {len(cells) - 1} more" if len(cells) > 1 else ""
        print(f"{cells[0].id}{more}: {reason}", file=sys.stderr)
    if len(by_reason) > limit:
        print(f"... and {len(by_reason) - limit} more reasons; see --explain", file=sys.stderr)


@dataclass(frozen=True)
class Budget:
    """How long a run may take.

    Attributes:
        minutes: from the first start to the last end.
        jobs: cells at a time.
    """

    minutes: float
    jobs: int

    @property
    def seconds(self) -> float:
        """Seconds of all cells together."""
        return self.minutes * 60 * max(1, self.jobs)


def tonight(
    cells: Sequence[Cell],
    selection: Selection,
    day: date | None,
    estimates: Mapping[str, float],
    budget: Budget | None,
    seen: Mapping[str, matrix.Seen],
) -> Chosen:
    """The night of a day in a selection that has a rotation; says so if the budget is too small."""
    assert selection.nights is not None
    found = matrix.night(
        cells,
        day or datetime.now(UTC).date(),
        selection.nights,
        budget.seconds if budget else None,
        estimates,
        seen,
        [cell for cell in cells if matrix.required(selection, cell)],
    )
    if found.missed and budget is not None:
        jobs = f" with {budget.jobs} at a time" if budget.jobs > 1 else ""
        unit = 60 * max(1, budget.jobs)
        print(
            f"warning: {found.shortage(selection.nights, 'minutes', unit)}{jobs}", file=sys.stderr
        )
    return Chosen(found.cells, estimates, found.reasons)


def fitting(
    cells: Sequence[Cell],
    estimates: Mapping[str, float],
    budget: Budget,
    selection: Selection | None = None,
) -> list[Cell]:
    """The best covering subset; raises NothingSelectedError when not one cell fits."""
    must = [cell for cell in cells if selection and matrix.required(selection, cell)]
    # No cell may be longer than the whole time, however many run at once.
    chosen = within(cells, estimates, budget.seconds, budget.minutes * 60, must)
    if not chosen:
        shortest = min(estimates.values())
        raise NothingSelectedError(
            f"--budget {budget.minutes:g}: no selected cell fits",
            f"the shortest is expected to take {shortest:.0f} s",
            f"give at least {shortest / 60:.1f} minutes",
        )
    return chosen


def _asked(patterns: Sequence[str], selection: str | None) -> str:
    of = f"of the selection {selection}" if selection else ""
    return " ".join(
        part for part in (of, f"matched by {' '.join(patterns)}" * bool(patterns)) if part
    )

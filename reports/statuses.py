"""Derives what is known of a cell from its records; no status is ever typed by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from matrix import Cell, Release
from reports.record import Evidence, Kind, Record

State = Literal[
    "passed",
    "failed",
    "error",
    "inconclusive",
    "expected-failure",
    "stale",
    "never-run",
    "unsupported",
]

SYMBOLS: Mapping[State, str] = {
    "passed": "✔",
    "failed": "✘",
    "error": "⚠",
    "inconclusive": "≈",
    "expected-failure": "⚑",
    "stale": "◷",
    "never-run": "○",
    "unsupported": "∅",
}
"""A symbol per state, always shown together with the word."""

KINDS: Mapping[Kind, str] = {
    "e2e": "end to end",
    "accuracy": "accuracy",
    "perf": "performance",
}
"""Every kind of run with its name, in the order in which tables show them."""

MEANINGS: Mapping[State, str] = {
    "passed": "the newest run passed, with its proof, on the current versions, and is not old",
    "failed": "a gate failed in the newest run",
    "error": "the newest run did not get as far as its gates",
    "inconclusive": "the newest run could not decide",
    "expected-failure": "the newest run did not pass, as expected: somebody owns that until a day",
    "stale": "the newest run is too old, or of other versions than the current release",
    "never-run": "no record",
    "unsupported": "a rule says so, with a reason; n/a where the question does not arise",
}


@dataclass(frozen=True)
class Policy:
    """When a record no longer speaks for today.

    Attributes:
        max_age: a record that started longer ago than this is stale.
        versions: component (a field of a record's versions) to the version that counts.
    """

    max_age: timedelta = timedelta(days=14)
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, release: Release, max_age_days: float = 14) -> Policy:
        """Return the policy by which only records of `release` count."""
        components = ("plugin", "vllm", "torch", "torch_npu")
        versions = {name: str(getattr(release, name)) for name in components}
        return cls(timedelta(days=max_age_days), versions)


@dataclass(frozen=True)
class Status:
    """What is known of one cell.

    Attributes:
        cell: the cell's id.
        state: one of `State`.
        reason: why, in one sentence; empty where the state says it all.
        record: the newest record, also where it is stale; None if it never ran.
        applicable: False where the question does not arise for the model.
    """

    cell: str
    state: State
    reason: str = ""
    record: Record | None = None
    applicable: bool = True

    @property
    def evidence(self) -> Evidence | None:
        """Where the record comes from; None without one."""
        return self.record.evidence if self.record else None

    @property
    def label(self) -> str:
        """Symbol and words, as tables show it; a stale one says what it was."""
        if not self.applicable:
            return "– n/a"
        words = self.state.replace("-", " ")
        if self.state == "stale" and self.record:
            words += f" ({self.record.verdict})"
        return f"{SYMBOLS[self.state]} {words}"


def status(
    cell: Cell,
    records: Iterable[Record],
    now: datetime,
    policy: Policy | None = None,
    kind: Kind = "e2e",
) -> Status:
    """Return what `records` say of `cell` at `now`; records of other cells and kinds are skipped.

    Records from hardware speak before simulated ones, however old: a simulated pass must not
    hide what a real NPU showed.
    """
    policy = policy or Policy()
    if cell.unsupported is not None:
        applicable = cell.unsupported.effect != "not-applicable"
        return Status(cell.id, "unsupported", cell.unsupported.reason, applicable=applicable)
    own = [record for record in records if record.cell == cell.id and record.kind == kind]
    if not own:
        return Status(cell.id, "never-run")
    newest = max(own, key=lambda record: (record.evidence == "hardware", record.started))
    reason = outdated(newest, now, policy)
    if reason:
        return Status(cell.id, "stale", reason, newest)
    return Status(cell.id, newest.verdict, newest.error.message if newest.error else "", newest)


def outdated(record: Record, now: datetime, policy: Policy) -> str:
    """Return why the record does not speak for `now`, or nothing."""
    age = now - record.started
    if age > policy.max_age:
        return f"ran {age.days} days ago; evidence counts for {policy.max_age.days}"
    for component, wanted in policy.versions.items():
        had = getattr(record.versions, component)
        # A local suffix such as +cpu or +empty names a build of the same version.
        if had is not None and had.split("+")[0] != wanted.split("+")[0]:
            return f"ran with {component} {had}; the current release has {wanted}"
    return ""


def statuses(
    cells: Sequence[Cell],
    records: Iterable[Record],
    now: datetime,
    policy: Policy | None = None,
    kind: Kind = "e2e",
) -> dict[str, Status]:
    """Return cell id to status for all `cells`, in their order."""
    by_cell: dict[str, list[Record]] = {}
    for record in records:
        by_cell.setdefault(record.cell, []).append(record)
    return {cell.id: status(cell, by_cell.get(cell.id, ()), now, policy, kind) for cell in cells}

"""What an expected failure makes of a cell's status: told while it counts, an error afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from matrix import Matrix
from matrix.expecting import expected
from matrix.schema import ExpectedFailure
from reports.outcome import surplus, whose
from reports.statuses import Status


def with_expected(
    matrix: Matrix, statuses: Mapping[str, Status], now: datetime
) -> dict[str, Status]:
    """Return the statuses, those of cells that are expected to fail with a word on that."""
    if not matrix.expected:
        return dict(statuses)
    return {id_: judge(status, expected(matrix, id_), now) for id_, status in statuses.items()}


def judge(status: Status, entry: ExpectedFailure | None, now: datetime) -> Status:
    """Return the status of a cell of which a failure is expected.

    A failure is an expected one, and says whose it is and until when. From the day on which the
    entry expires, whatever the cell did is an error, and so the entry cannot be forgotten. A cell
    that passes says that the entry has to go.
    """
    if entry is None or status.state in ("unsupported", "never-run"):
        return status
    if now.date() >= entry.expires:
        by = f"{entry.name!r} ({entry.owner}, {entry.issue})"
        told = f"the expected failure {by} expired on {entry.expires}: {entry.reason}"
        return replace(status, state="error", reason=told)
    if status.state == "passed":
        return replace(status, reason=surplus(entry))
    failed = status.state in ("failed", "error")
    told = f"expected by {whose(entry)} {status.reason}".strip()
    return replace(status, state="expected-failure" if failed else status.state, reason=told)

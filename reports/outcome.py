"""What a run of several cells tells other programs: the document of `--json`, and the exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from matrix.errors import GATE_FAILED, INCONCLUSIVE, INFRASTRUCTURE, PASSED
from matrix.schema import ExpectedFailure
from reports.record import Record, Verdict

Conclusion = Literal[
    "passed", "failed", "error", "inconclusive", "expected failure", "unexpected pass"
]
"""What a verdict means for the run, once it is known of which cells a failure is expected."""

CONCLUSIONS: tuple[Conclusion, ...] = (
    "passed",
    "failed",
    "error",
    "inconclusive",
    "expected failure",
    "unexpected pass",
)

Expected = Mapping[str, ExpectedFailure]
"""Cell id to the failure that is expected of it, end to end."""

NONE: Expected = {}


def conclude(verdict: Verdict, entry: ExpectedFailure | None) -> Conclusion:
    """Return what a verdict means where a failure is expected; strictly, a pass is then no pass.

    A run that could not decide stays what it is.
    """
    if entry is None or verdict == "inconclusive":
        return verdict
    return "unexpected pass" if verdict == "passed" else "expected failure"


def entry_of(record: Record, expected: Expected) -> ExpectedFailure | None:
    """Return the failure that is expected of a record's cell; they are about end-to-end runs."""
    return expected.get(record.cell) if record.kind == "e2e" else None


def concluded(record: Record, expected: Expected) -> Conclusion:
    """Return what a record means for the run."""
    return conclude(record.verdict, entry_of(record, expected))


def whose(entry: ExpectedFailure) -> str:
    """Return in a few words whose an expected failure is, and until when."""
    return f"{entry.owner} until {entry.expires}, {entry.issue}: {entry.reason}"


def surplus(entry: ExpectedFailure) -> str:
    """Return what to say of a cell that passes although a failure is expected."""
    return (
        f"passes, and {entry.name!r} ({entry.owner}, {entry.issue}) expects it to fail until "
        f"{entry.expires}: remove the row from matrix/expected.yaml"
    )


def document(records: Sequence[Record], expected: Expected = NONE) -> dict[str, Any]:
    """Return every cell with its record, and how many ended in which way."""
    counts = Counter[str](concluded(record, expected) for record in records)
    return {
        "cells": [_cell(record, expected) for record in records],
        "summary": {name: counts[name] for name in CONCLUSIONS},
    }


def _cell(record: Record, expected: Expected) -> dict[str, Any]:
    entry = entry_of(record, expected)
    return {
        "id": record.cell,
        "kind": record.kind,
        "verdict": record.verdict,
        "conclusion": concluded(record, expected),
        "expected": None if entry is None else entry.model_dump(mode="json", exclude={"cells"}),
        "evidence": record.evidence,
        "seconds": record.seconds,
        "record": record.document(),
    }


def exit_code(records: Sequence[Record], lost: int = 0, expected: Expected = NONE) -> int:
    """Return the code for a whole run; a gate that failed counts most.

    A failure that is expected does not count, and a pass where one is expected counts as a gate
    that failed: the row has to go.

    Args:
        records: what was run.
        lost: records that could not be stored.
        expected: failures that are expected of cells.
    """
    found = {concluded(record, expected) for record in records}
    if found & {"failed", "unexpected pass"}:
        return GATE_FAILED
    if "error" in found or lost:
        return INFRASTRUCTURE
    return INCONCLUSIVE if "inconclusive" in found else PASSED

"""What a run of several cells tells other programs: the document of `--json`, and the exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from matrix.errors import GATE_FAILED, INCONCLUSIVE, INFRASTRUCTURE, PASSED
from reports.record import Record


def document(records: Sequence[Record]) -> dict[str, Any]:
    """Return every cell with its record, and how many ended in which way."""
    counts = Counter[str](record.verdict for record in records)
    names = ("passed", "failed", "error", "inconclusive")
    return {
        "cells": [
            {
                "id": record.cell,
                "kind": record.kind,
                "verdict": record.verdict,
                "evidence": record.evidence,
                "seconds": record.seconds,
                "record": record.document(),
            }
            for record in records
        ],
        "summary": {name: counts[name] for name in names},
    }


def exit_code(records: Sequence[Record], lost: int = 0) -> int:
    """Return the code for a whole run; a gate that failed counts most.

    Args:
        records: what was run.
        lost: records that could not be stored.
    """
    verdicts = {record.verdict for record in records}
    if "failed" in verdicts:
        return GATE_FAILED
    if "error" in verdicts or lost:
        return INFRASTRUCTURE
    return INCONCLUSIVE if "inconclusive" in verdicts else PASSED

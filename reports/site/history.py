"""The verdicts of all cells over time in one small document, for differences between two dates."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from reports.record import Kind, Record
from reports.site import text
from reports.site.index import LETTERS, base36
from reports.statuses import KINDS
from reports.store import TOLERANCE
from reports.support import Support

EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
"""The day from which days are counted."""

RUNS = 200
"""The most entries of a cell and kind; older ones are left to the store."""

_COMPONENTS = ("plugin", "vllm", "torch_npu")


def document(support: Support) -> dict[str, Any]:
    """Return for each kind the runs of each cell, oldest first, six characters a run.

    They are three digits to the base 36 for the day since 2020, the verdict's letter (a capital
    for a run on a real NPU), and two digits for the entry of `versions`. Of runs on one day, with
    the same evidence and versions, only the last stands there: a day has one verdict.
    """
    versions: dict[str, int] = {}
    kinds: dict[Kind, dict[str, str]] = {kind: {} for kind in KINDS}
    for cell, records in support.history.items():
        if cell not in support.cells:
            continue
        for kind in KINDS:
            own = [record for record in records if record.kind == kind]
            runs = _runs(own, versions, support.now)
            if runs:
                kinds[kind][cell] = runs
    return {
        "epoch": EPOCH.date().isoformat(),
        "letters": {verdict: LETTERS[verdict] for verdict in _VERDICTS},
        "versions": list(versions),
        "kinds": kinds,
    }


_VERDICTS = ("passed", "failed", "error", "inconclusive")


def _runs(newest_first: Sequence[Record], versions: dict[str, int], now: datetime) -> str:
    found: dict[tuple[int, str, int], str] = {}
    for record in newest_first:
        if record.started - now > TOLERANCE:
            continue  # the runner's clock was wrong; the cell's own page says so
        day = (record.started - EPOCH).days
        version = versions.setdefault(_versions(record), len(versions))
        entry = LETTERS[record.verdict]
        entry = entry.upper() if record.evidence == "hardware" else entry
        key = (day, record.evidence, version)
        found.setdefault(key, base36(day, 3) + entry + base36(version, 2))
        if len(found) == RUNS:
            break
    return "".join(reversed(found.values()))


def _versions(record: Record) -> str:
    known = record.versions.model_dump(include=set(_COMPONENTS))
    parts = [f"{name.replace('_', '-')} {known[name]}" for name in _COMPONENTS if known[name]]
    return text.start(", ".join(parts) or "unknown", 120)

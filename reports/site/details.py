"""What a page shows when a cell is opened: newest records, their proof, and the runs before."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from reports import measures
from reports.places import published
from reports.record import Kind, Record
from reports.site import text
from reports.statuses import KINDS, Status
from reports.support import Support

RUNS = 60
"""The most runs of one kind that a cell's history shows; the store has all."""

AHEAD = "the clock of the runner was ahead in every run ({} of them), so none speaks for the cell"
"""Why a cell with runs has no status of them."""

_MESSAGE, _LOG, _VALUE, _SAMPLE = 2_000, 6_000, 300, 400  # characters that are shown
_SAMPLES = 5


def by_model(support: Support) -> dict[str, dict[str, Any]]:
    """Return model name to the details of its cells.

    `cells` has the id of each cell without its model to its kinds of runs. A cell that a rule
    excludes has only the number of its reason in `reasons`; one that never ran has an empty
    mapping.
    """
    found: dict[str, dict[str, Any]] = {
        name: {"model": name, "reasons": [], "cells": {}} for name in support.matrix.models
    }
    numbers: dict[tuple[str, str, str], int] = {}
    for cell_id, cell in support.cells.items():
        document = found[cell.model.name]
        place = cell_id.partition("/")[2]
        if cell.unsupported is not None:
            key = (cell.model.name, cell.unsupported.name, cell.unsupported.reason)
            if key not in numbers:
                numbers[key] = len(document["reasons"])
                document["reasons"].append(_reason(support.statuses[cell_id], cell.unsupported))
            document["cells"][place] = numbers[key]
        else:
            document["cells"][place] = _cell(support, cell_id)
    return found


def _reason(status: Status, rule: Any) -> dict[str, Any]:
    return {
        "rule": rule.name,
        "reason": text.start(status.reason, _MESSAGE),
        "issue": _address(rule.issue),
    }


def _cell(support: Support, cell_id: str) -> dict[str, Any]:
    runs: dict[Kind, list[Record]] = {}
    for record in support.history.get(cell_id, ()):
        runs.setdefault(record.kind, []).append(record)
    found: dict[str, Any] = {}
    for kind in KINDS:
        status = support.marks[kind][cell_id]
        own = runs.get(kind, [])
        if status.record is None and not own and not status.reason:
            continue
        # Runs without a record that speaks for the cell have clocks that were ahead.
        reason = AHEAD.format(len(own)) if own and not status.record else status.reason
        found[kind] = {"state": status.state, "reason": text.start(reason, _MESSAGE)}
        if own:
            found[kind] |= {"runs": [_run(run) for run in own[:RUNS]], "all_runs": len(own)}
        if status.record is not None:
            found[kind]["record"] = of_record(status.record)
    return found


def of_record(record: Record) -> dict[str, Any]:
    """Return what is shown of one record, cleaned and cut."""
    record = published(record)
    found: dict[str, Any] = {
        "id": record.id,
        "verdict": record.verdict,
        "evidence": record.evidence,
        "started": record.started.isoformat(timespec="seconds"),
        "seconds": round(record.seconds, 1),
        "timings": {text.start(k, _VALUE): round(v, 2) for k, v in record.timings.items()},
        "chip": text.start(record.hardware.chip, _VALUE),
        "cards": record.hardware.cards,
        "runner": text.start(record.runner, _VALUE),
        "versions": text.value(record.versions.model_dump(exclude_none=True), _VALUE),
        "metrics": [[text.clean(m.name), m.text, m.interval] for m in measures.measures(record)],
        "proof": text.value(record.proof, _VALUE),
        "url": _address(record.run_url),
        "logs": [text.start(path, _VALUE) for path in record.artifacts[:_SAMPLES]],
    }
    if record.samples:
        found["samples"] = [text.value(s, _SAMPLE) for s in record.samples[:_SAMPLES]]
        found["all_samples"] = len(record.samples)
    if record.error is not None:
        found["error"] = {
            "class": text.start(record.error.class_, _VALUE),
            "message": text.start(record.error.message, _MESSAGE),
            "log": text.end(record.error.log_tail, _LOG),
        }
    return found


def _run(record: Record) -> list[Any]:
    """Return start, verdict, evidence, commit, seconds, address, id and the main metric."""
    commit = (record.versions.commit or "")[:9] + ("+" if record.versions.dirty else "")
    return [
        record.started.isoformat(timespec="minutes")[:16],
        record.verdict,
        record.evidence,
        text.clean(commit),
        round(record.seconds, 1),
        _address(record.run_url),
        record.id,
        _point(record),
    ]


def _point(record: Record) -> list[Any] | None:
    """Return name, value, low, high and text of the metric that a line over time is drawn of."""
    for name in _by_meaning(record):
        low, high = measures.bounds(name)
        metric = record.metrics[name]
        ends = [record.metrics[b].value if b in record.metrics else None for b in (low, high)]
        words = measures.value(metric)
        return [text.start(measures.words(name), _VALUE), metric.value, *ends, words]
    return None


def _by_meaning(record: Record) -> Iterable[str]:
    """Return names of metrics: those with an interval, then throughput; memory of hosts last."""
    last = {"throughput": 1, "peak_host_memory": 3}

    def place(name: str) -> int:
        return 0 if measures.bounds(name)[0] in record.metrics else last.get(name, 2)

    return sorted(record.metrics, key=place)


def _address(url: str | None) -> str | None:
    """Return an address that a link may have; anything but http and https is no link."""
    if not url:
        return None
    try:
        safe = urlsplit(url).scheme in ("http", "https") and url.isprintable()
    except ValueError:
        safe = False
    return url if safe and len(url) < _MESSAGE else None
